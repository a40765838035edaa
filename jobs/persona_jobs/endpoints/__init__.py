"""Models behind OpenAI-compatible endpoints, with many requests in flight."""

from .base import ChatAnswer, ChatRequest, Ending, TokenChoice

__all__ = ["ChatAnswer", "ChatRequest", "Ending", "TokenChoice"]
