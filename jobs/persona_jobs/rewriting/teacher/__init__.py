"""The teacher that writes the persona's answers: the base model or an OpenAI-compatible API."""

from .base import OnAnswer, ShouldStop, Teacher, TeacherAnswer, TeacherRequest

__all__ = ["OnAnswer", "ShouldStop", "Teacher", "TeacherAnswer", "TeacherRequest"]
