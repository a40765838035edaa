"""Models and data from the hub, a bucket, local files, installed packages and built-in sets.

Importing this package is cheap; torch and the hub's libraries are loaded only when needed.
"""
