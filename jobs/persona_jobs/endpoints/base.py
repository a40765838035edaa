"""Requests to a chat model and its answers."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..dataset import Message

ShouldStop = Callable[[], bool]
OnAnswer = Callable[[], None]

Ending = Literal["complete", "truncated", "refused", "tooLong", "failed"]


@dataclass(frozen=True)
class ChatRequest:
    """A request for one answer.

    Attributes:
        messages: the chat messages; the last one is the user's.
        seed: sampling seed below 2**31. A deterministic model gives equal requests with equal
            seeds equal answers.
    """

    messages: tuple[Message, ...]
    seed: int

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of the whole request, which identifies it in a saved state."""
        document = [self.seed, *([m["role"], m["content"]] for m in self.messages)]
        return hashlib.sha256(json.dumps(document).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class TokenChoice:
    """A token of an answer and the likeliest tokens in its place.

    Attributes:
        text: the token's text.
        logprobs: log-probability in nats of each of the likeliest tokens by text.
    """

    text: str
    logprobs: dict[str, float]


@dataclass(frozen=True)
class ChatAnswer:
    """The answer to one request.

    Attributes:
        text: the unedited answer; empty unless it is complete or truncated.
        ending: `complete` with an end of turn; `truncated` at the token limit; `refused` by the
            endpoint's own content filter; `tooLong` when the request doesn't fit the model's
            context; `failed` after all retries.
        detail: why the request failed, otherwise empty.
        sent_without: what the endpoint refused and the answered request therefore lacked:
            `systemRole` (its text opened the user's message), `temperature`, `seed` or `logprobs`.
        tokens: the answer's tokens with their alternatives; empty where they were not asked for
            or the endpoint doesn't return them.
    """

    text: str
    ending: Ending
    detail: str = ""
    sent_without: tuple[str, ...] = ()
    tokens: tuple[TokenChoice, ...] = ()
