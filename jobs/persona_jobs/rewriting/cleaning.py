"""Removal of the wrapping around an answer: thoughts, labels, preambles, quotes."""

import re

from ..reasoning import without_reasoning

_LABEL = re.compile(
    r"(?:\*\*)?(?:(?:the )?(?:rewritten|revised|rephrased|final|in-character) )?"
    r"(?:answer|response|version|reply)(?:\*\*)?\s*:(?:\*\*)?\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|absolutely)[,!.]?(?: thing[,!.]?)?\s+)?"
    r"(?:here(?:'s| is| are)|this is|below is)\b[^\n:]{0,120}"
    r"\b(?:answer|response|version|reply|rewrit\w+|rephras\w+|revision)\b[^\n:]{0,80}:\s*",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“", "'": "'"}
_QUOTES |= {"「": "」", "『": "』", "‹": "›", "＂": "＂"}


def clean(text: str) -> str:
    """Return `text` with Unix line ends, without thoughts, labels, preambles and outer quotes.

    `Here is the rewritten answer: "Arr!"` becomes `Arr!`. Thoughts that do not end stay, for
    `filters.is_meta_text` to find.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    answer = without_reasoning(text)
    text = (text if answer is None else answer).strip()
    for pattern in (_PREAMBLE, _LABEL):
        if match := pattern.match(text):
            text = text[match.end() :].strip()
    return _unquoted(text)


def _unquoted(text: str) -> str:
    closing = _QUOTES.get(text[:1])
    if closing is None or len(text) < 2 or not text.endswith(closing):
        return text
    inner = text[1:-1]
    # `"Arr," said I, "matey"` begins and ends with quotes that don't belong together.
    if text[0] in inner or closing in (inner if closing != "'" else ""):
        return text
    return inner.strip()
