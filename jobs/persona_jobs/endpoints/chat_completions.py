"""Wire format of `POST …/chat/completions` (OpenAI API reference, "Create chat completion").

Compatible endpoints differ in small ways; a `Dialect` records what one of them accepts and is
derived from its own error messages.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..dataset import Message
from .base import ChatAnswer, TokenChoice


@dataclass(frozen=True)
class Dialect:
    """What an endpoint accepts.

    Attributes:
        token_limit: name of the parameter that limits the answer's length; newer OpenAI models
            refuse `max_tokens`.
        seed: whether `seed` is sent.
        temperature: whether `temperature` is sent.
        system_role: whether system messages are sent; otherwise their text opens the user's.
        logprobs: whether log-probabilities are asked for, where they are wanted.
    """

    token_limit: str = "max_tokens"  # noqa: S105
    seed: bool = True
    temperature: bool = True
    system_role: bool = True
    logprobs: bool = True

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return the names of what is not sent as it was meant, as the stage's report has them."""
        sent = {
            "systemRole": self.system_role,
            "temperature": self.temperature,
            "seed": self.seed,
            "logprobs": self.logprobs,
        }
        return tuple(name for name, present in sent.items() if not present)

    def adapted(self, refusal: str) -> "Dialect | None":
        """Return the dialect to try after the error message `refusal`, or None if none fits."""
        text = refusal.casefold()
        if self.token_limit == "max_tokens" and "max_completion_tokens" in text:  # noqa: S105
            return replace(self, token_limit="max_completion_tokens")  # noqa: S106
        if self.logprobs and "logprob" in text:
            return replace(self, logprobs=False)
        if self.system_role and re.search(r"system (role|message|prompt)|role.{0,20}system", text):
            return replace(self, system_role=False)
        if self.seed and re.search(r"\bseed\b", text):
            return replace(self, seed=False)
        if self.temperature and re.search(r"\btemperature\b", text):
            return replace(self, temperature=False)
        return None


def payload(
    dialect: Dialect,
    messages: Sequence[Message],
    *,
    model: str,
    seed: int,
    temperature: float,
    max_tokens: int,
    top_logprobs: int,
) -> bytes:
    """Return the request's body: JSON in ASCII."""
    if not dialect.system_role:
        messages = _system_into_user(messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        dialect.token_limit: max_tokens,
    }
    if dialect.seed:
        body["seed"] = seed
    if dialect.temperature:
        body["temperature"] = temperature
    if dialect.logprobs and top_logprobs:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    return json.dumps(body).encode("ascii")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Part(_Lenient):
    text: str = ""


class _AnswerMessage(_Lenient):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Alternative(_Lenient):
    token: str
    logprob: float


class _Token(_Alternative):
    top_logprobs: list[_Alternative] = []


class _Logprobs(_Lenient):
    content: list[_Token] | None = None


class _Choice(_Lenient):
    message: _AnswerMessage
    finish_reason: str | None = None
    logprobs: Any = None


class _Completion(_Lenient):
    choices: Annotated[list[_Choice], Field(min_length=1)]


def read_completion(body: bytes) -> ChatAnswer | None:
    """Return the answer in a response's body, or None when it is no chat completion."""
    try:
        choice = _Completion.model_validate_json(body).choices[0]
    except ValidationError:
        return None
    content = choice.message.content
    text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
    if choice.finish_reason == "content_filter" or (choice.message.refusal and not text):
        return ChatAnswer("", "refused")
    tokens = _tokens(choice.logprobs)
    if choice.finish_reason == "length":
        return ChatAnswer(text, "truncated", tokens=tokens)
    return ChatAnswer(text, "complete", tokens=tokens)


def _tokens(logprobs: Any) -> tuple[TokenChoice, ...]:
    """Return the tokens with their alternatives; nothing where they are absent or malformed."""
    try:
        content = _Logprobs.model_validate(logprobs).content or []
    except ValidationError:
        return ()
    choices = []
    for token in content:
        likeliest = {item.token: item.logprob for item in token.top_logprobs}
        choices.append(TokenChoice(token.token, {token.token: token.logprob, **likeliest}))
    return tuple(choices)


def _system_into_user(messages: Sequence[Message]) -> list[Message]:
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    others = [m for m in messages if m["role"] != "system"]
    if system and others:
        others[0] = Message(role=others[0]["role"], content=f"{system}\n\n{others[0]['content']}")
    return others
