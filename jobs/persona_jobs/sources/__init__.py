"""Where models and data come from: hub, bucket, local files, installed packages, built-in sets.

Importing this package is cheap; torch and the hub's libraries are loaded only when needed.
"""

from .digest import digest

__all__ = ["digest"]
