"""Chat records as instructions: the first question of a conversation and its answer.

Read are `messages` with `role` and `content` (OpenAI, Hugging Face), `conversations` with `from`
and `value` (ShareGPT), and `prompt` with `completion`, as texts or as messages (TRL).
"""

from collections.abc import Iterator, Mapping
from typing import Any

CONVERSATION_COLUMNS = ("messages", "conversations")
PROMPT, COMPLETION = "prompt", "completion"
_USER = {"user", "human"}
_ASSISTANT = {"assistant", "gpt", "chatgpt", "bot", "model"}


def has_conversation(columns: Mapping[str, Any]) -> bool:
    """Return whether a record with these columns is a conversation."""
    return any(name in columns for name in CONVERSATION_COLUMNS) or (
        PROMPT in columns and COMPLETION in columns
    )


def first_exchange(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first question that has an answer, and the answer; empty texts where none has.

    System messages are left out: the persona takes their place. A question that something else than
    an answer follows, such as a tool call, has none.
    """
    turns: list[tuple[str, str]] = []
    for name in CONVERSATION_COLUMNS:
        if name in record:
            turns = list(_turns(record[name]))
            break
    else:
        turns = [
            *_prompt_turns(record.get(PROMPT), "user"),
            *_prompt_turns(record.get(COMPLETION), "assistant"),
        ]
    question = ""
    for speaker, text in turns:
        if speaker == "user":
            question = text
        elif speaker == "assistant" and question and text:
            return question, text
        elif speaker != "system":
            question = ""
    return question, ""


def _prompt_turns(value: Any, speaker: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield speaker, value
    else:
        yield from _turns(value)


def _turns(messages: Any) -> Iterator[tuple[str, str]]:
    """Yield `user`, `assistant`, `system` or another role, with the text of each message."""
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict):
            continue
        role = str(message.get("role") or message.get("from") or "").lower()
        content = message.get("content", message.get("value"))
        speaker = "user" if role in _USER else "assistant" if role in _ASSISTANT else role
        yield speaker, _content(content)


def _content(content: Any) -> str:
    """Return the text of a message, whose content may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
