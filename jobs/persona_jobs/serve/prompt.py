"""Token ids of a conversation, and room for the answer within the context length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import dataset
from ..errors import InputError
from .api_errors import ApiError
from .protocol import Message

Render = Callable[[list[dataset.Message]], list[int]]
"""A chat template: from messages to the token ids up to the start of the answer."""
MAX_CHARACTERS_PER_TOKEN = 16
"""Longer conversations than this are not tokenized; text has three to five characters per token."""


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        ids: token ids up to the start of the answer.
        max_new_tokens: token limit of the answer.
    """

    ids: list[int]
    max_new_tokens: int


def characters(messages: Sequence[Message]) -> int:
    """Return the number of characters of a conversation."""
    return sum(len(message.text) for message in messages)


def build(
    messages: Sequence[Message],
    render: Render,
    *,
    token_limit: int | None,
    default_limit: int,
    max_context_tokens: int,
) -> Prompt:
    """Render a conversation and check that it fits with its answer.

    Without a system message, the chat template inserts the checkpoint's own: the persona.

    Args:
        messages: the conversation.
        render: the model's chat template.
        token_limit: token limit of the answer that the request sets; None if it sets none.
        default_limit: token limit of a request that sets none; lowered to the room that is left.
        max_context_tokens: token limit of prompt and answer.

    Raises:
        ApiError: 400 if the conversation is too long or the chat template refuses it.
    """
    length, limit = characters(messages), MAX_CHARACTERS_PER_TOKEN * max_context_tokens
    if length > limit:
        raise ApiError(
            400,
            f"The messages have {length} characters. This model's maximum context length of "
            f"{max_context_tokens} tokens has room for at most {limit}. Shorten the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    plain = [
        dataset.Message(
            role="system" if message.role == "developer" else message.role, content=message.text
        )
        for message in messages
    ]
    try:
        ids = render(plain)
    except InputError as error:
        raise ApiError(400, f"{error}.", param="messages", code="invalid_value") from error
    room = max_context_tokens - len(ids)
    if room < 1:
        raise ApiError(
            400,
            f"This model's maximum context length is {max_context_tokens} tokens, one of them for "
            f"the answer, but the messages have {len(ids)} tokens. Shorten the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    if token_limit is not None and token_limit > room:
        raise ApiError(
            400,
            f"This model's maximum context length is {max_context_tokens} tokens, but "
            f"{len(ids) + token_limit} were requested: {len(ids)} in the messages and "
            f"{token_limit} in the completion. Shorten the messages or lower the token limit to "
            f"{room}.",
            param="messages",
            code="context_length_exceeded",
        )
    return Prompt(ids=ids, max_new_tokens=token_limit or min(default_limit, room))
