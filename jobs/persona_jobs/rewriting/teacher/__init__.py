"""Who writes the persona's answers: the base model itself, or an OpenAI-compatible endpoint."""

from .base import OnAnswer, ShouldStop, Teacher, TeacherAnswer, TeacherRequest

__all__ = ["OnAnswer", "ShouldStop", "Teacher", "TeacherAnswer", "TeacherRequest"]
