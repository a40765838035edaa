"""evaluate: measure the sliced model beside the dense one."""

from .stage import run

__all__ = ["run"]
