"""Measurements of the evaluate stage: losses, persona score, size and speed."""
