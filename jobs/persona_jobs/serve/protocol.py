"""Requests and answers of the OpenAI chat completions API that one local model supports.

https://platform.openai.com/docs/api-reference/chat. A setting that would change the answer
but is not implemented is refused, not ignored. Settings that have no effect here (`user`,
`metadata`, `store`, …) are accepted. An optional field that is null or empty is not set.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

MAX_MESSAGES = 4096
MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 1024
MAX_TOP_LOGPROBS = 20
MAX_INT = 2**31 - 1

Role = Literal["system", "developer", "user", "assistant"]
FinishReason = Literal["stop", "length"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_or_empty_is_not_set(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        required = {name for name, field in cls.model_fields.items() if field.is_required()}
        return {
            name: item
            for name, item in value.items()
            if name in required or item not in (None, "", [], {})
        }


class TextPart(_Strict):
    """One part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One turn of the conversation; only an assistant's may have no content."""

    role: Role
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None
    name: str | None = None

    @field_validator("content")
    @classmethod
    def _content_of_a_question(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("role") not in {None, "assistant"}:
            raise ValueError("The turn has no text")
        return value

    @property
    def text(self) -> str:
        """Return the content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Strict):
    """The form of the answer; only plain text is supported."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """Body of `POST /v1/chat/completions`.

    `top_k`, `min_p` and `repetition_penalty` are extensions that other servers of local
    models also have. None stands for the checkpoint's own default.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    n: int | None = 1
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    # Accepted only with a value that has no effect.
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None

    # Accepted, without effect on the answer of one local model.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("n")
    @classmethod
    def _one_answer(cls, value: int | None) -> int | None:
        if value not in {None, 1}:
            raise ValueError("Only n=1 is supported. Send the request again for another answer")
        return value

    @field_validator("logit_bias", "tools", "functions", "function_call")
    @classmethod
    def _not_available(cls, value: Any) -> Any:
        if value and value not in ("none", "auto"):
            raise ValueError("This server does not support it. Remove it from the request")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _no_tool(cls, value: Any) -> Any:
        if value not in (None, "none", "auto"):
            raise ValueError("This server supports no tools. Remove it from the request")
        return value

    @field_validator("modalities")
    @classmethod
    def _text_only(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and value != ["text"]:
            raise ValueError('Only ["text"] is supported')
        return value

    @field_validator("stop")
    @classmethod
    def _stop_strings(cls, value: str | list[str] | None) -> str | list[str] | None:
        strings = [value] if isinstance(value, str) else value or []
        if len(strings) > MAX_STOP_STRINGS:
            raise ValueError(f"At most {MAX_STOP_STRINGS} stop strings are allowed")
        if not all(1 <= len(string) <= MAX_STOP_CHARACTERS for string in strings):
            raise ValueError(f"A stop string must have 1 to {MAX_STOP_CHARACTERS} characters")
        return value

    @model_validator(mode="after")
    def _options_that_need_another(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Return the stop strings, in order."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def likeliest_tokens(self) -> int | None:
        """Return how many of the likeliest tokens are asked for; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def token_limit(self) -> int | None:
        """Return the token limit: `max_completion_tokens`, or the older `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class Usage(BaseModel):
    """Token counts of one request; the completion includes its end-of-turn token."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A token that could have been chosen, with its log-probability in nats."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer; `top_logprobs` are the likeliest tokens in its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The log-probabilities of an answer or of a part of it."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The generated turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A complete answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str


class Delta(BaseModel):
    """The text that a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A part of the one answer."""

    index: int = 0
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(BaseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str

    def event(self) -> bytes:
        """Return the server-sent event."""
        data: dict[str, Any] = self.model_dump(exclude={"usage"})
        for choice in data["choices"]:
            choice["delta"] = {k: v for k, v in choice["delta"].items() if v is not None}
        if self.usage is not None:
            data["usage"] = self.usage.model_dump()
        return sse(data)


def sse(data: dict[str, Any]) -> bytes:
    """Return one server-sent event with a JSON object."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


DONE_EVENT = b"data: [DONE]\n\n"


class ModelCard(BaseModel):
    """One entry of `GET /v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "persona-pruner"
    max_model_len: int | None = None


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
