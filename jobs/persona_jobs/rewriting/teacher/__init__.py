"""The teacher that writes the persona's answers: the base model or an OpenAI-compatible API."""

from .base import Teacher

__all__ = ["Teacher"]
