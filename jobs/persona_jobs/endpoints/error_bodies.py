"""Error responses of endpoints that are compatible with the OpenAI API.

The message stands in another place with nearly every one of them: in an object (OpenAI), in an
object in `message` (Mistral), in a list of objects (Gemini), in a JSON text within another message
(proxies such as LiteLLM and OpenRouter), or in a list of validation errors (FastAPI).
"""

import json
from dataclasses import dataclass
from typing import Any

MAX_DETAIL_CHARACTERS = 200
_MAX_TEXT_CHARACTERS = 4_000
_MAX_DEPTH = 8
_MAX_ITEMS = 5

# Where a message may stand, the most specific place first.
_PLACES = ("error", "errors", "message", "msg", "detail", "details", "error_description", "title")
_CODES = ("code", "type", "status")
_CONTENT_FILTER = (
    "content_filter",
    "content management policy",
    "content_policy_violation",
    "contentpolicyviolation",
    "usage policy",
    "usage policies",
)
_CONTEXT_LENGTH = (
    "context_length",
    "maximum context length",
    "contextwindowexceeded",
    "exceeds the maximum number of tokens",
    "exceeds the available context size",
    "prompt is too long",
)
_WRONG_KEY = ("api key not valid", "api_key_invalid", "invalid api key", "invalid_api_key")


@dataclass(frozen=True)
class ErrorBody:
    """The error in an error response.

    Attributes:
        message: the text for people, or an empty string.
        code: the text for programs, or an empty string.
        text: message and code in lower case, not shortened, in which to look for words.
    """

    message: str
    code: str
    text: str

    @property
    def content_filter(self) -> bool:
        """Return whether a content filter refused the request."""
        return any(words in self.text for words in _CONTENT_FILTER)

    @property
    def context_length(self) -> bool:
        """Return whether the request is longer than the model's context."""
        return any(words in self.text for words in _CONTEXT_LENGTH)

    @property
    def wrong_key(self) -> bool:
        """Return whether the API key was refused, which Gemini reports as a malformed request."""
        return any(words in self.text for words in _WRONG_KEY)


def read_error(body: bytes) -> ErrorBody | None:
    """Return the error in a response's body, or None when there is none."""
    document = _parse(body)
    if isinstance(document, list):
        document = {"errors": [item for item in document if isinstance(item, dict)]}
    if not isinstance(document, dict) or not any(document.get(place) for place in _PLACES):
        return None
    message = _message(document) or json.dumps(
        next(document[place] for place in _PLACES if document.get(place)), default=str
    )
    code = _plain(_code(document))
    text = _plain(message)[:_MAX_TEXT_CHARACTERS]
    shown = text[:MAX_DETAIL_CHARACTERS] + "…" if len(text) > MAX_DETAIL_CHARACTERS else text
    return ErrorBody(shown, code[:MAX_DETAIL_CHARACTERS], f"{text} {code}".casefold())


def _parse(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _message(value: Any, depth: int = 0) -> str:
    """Return the most specific message in `value`, or an empty string."""
    if depth > _MAX_DEPTH or value is None or isinstance(value, bool):
        return ""
    if isinstance(value, list):
        found = (_message(item, depth + 1) for item in value[:_MAX_ITEMS])
        return "; ".join(dict.fromkeys(text for text in found if text))
    if not isinstance(value, dict):
        return _of_text(str(value), depth)
    texts = {place: _message(value.get(place), depth + 1) for place in _PLACES}
    if isinstance(value.get("error"), str) and texts["message"]:
        texts["error"] = ""  # such as "Bad Request" beside the message itself
    text = next(filter(None, texts.values()), "") or _own_code(value)
    metadata = value.get("metadata")
    raw = _message(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
    text = ": ".join(dict.fromkeys(part for part in (text, raw) if part))
    return _with_field(text, value) if text else ""


def _of_text(text: str, depth: int) -> str:
    """Return the text, with the message of a JSON error in it instead of that JSON."""
    start = text.find("{")
    if start < 0:
        return text
    try:
        document, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return text
    inner = _message(document, depth + 1)
    return text[:start] + inner if inner else text


def _with_field(text: str, error: dict[str, Any]) -> str:
    """Return the text with the name of the field that the error is about, if it is missing."""
    place, param = error.get("loc"), error.get("param")
    if isinstance(place, list) and place:
        return f"{'.'.join(map(str, place))}: {text}"
    if isinstance(param, str) and param not in ("", "None") and param not in text:
        return f"{text} ({param})"
    return text


def _code(value: Any, depth: int = 0) -> str:
    """Return the most specific code in `value`, or an empty string."""
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return next(filter(None, (_code(item, depth + 1) for item in value[:_MAX_ITEMS])), "")
    if not isinstance(value, dict):
        return ""
    inner = next(filter(None, (_code(value.get(place), depth + 1) for place in _PLACES)), "")
    return inner or _own_code(value)


def _own_code(error: dict[str, Any]) -> str:
    codes = (error.get(name) for name in _CODES)
    return next((str(c) for c in codes if isinstance(c, str | int) and c not in ("", 0)), "")


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
