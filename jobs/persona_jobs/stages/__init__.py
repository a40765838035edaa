"""The stages: each reads the spec and its inputs, calls the library and writes files."""
