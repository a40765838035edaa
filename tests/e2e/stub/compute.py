"""Stands in for `persona_jobs.models.compute` in an image without torch."""


def has_cuda() -> bool:
    """Return that there is no GPU."""
    return False
