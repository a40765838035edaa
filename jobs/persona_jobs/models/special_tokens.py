"""Special tokens in text that people wrote, where they could end a turn or open another."""

import re
from typing import Any
from weakref import WeakKeyDictionary

# A zero-width space after the first character: the text looks the same and is no token any more.
_SPLIT = "\u200b"
_patterns: WeakKeyDictionary[Any, re.Pattern[str] | None] = WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the tokenizer's special tokens, sorted."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*added, *tokenizer.all_special_tokens} - {""})


def as_plain_text(tokenizer: Any, text: str) -> str:
    """Return `text` with a zero-width space in each special token, so that it is plain text."""
    if tokenizer not in _patterns:
        tokens = sorted((t for t in special_tokens(tokenizer) if len(t) > 1), key=len, reverse=True)
        _patterns[tokenizer] = re.compile("|".join(map(re.escape, tokens))) if tokens else None
    pattern = _patterns[tokenizer]
    if pattern is None:
        return text
    return pattern.sub(lambda found: f"{found[0][0]}{_SPLIT}{found[0][1:]}", text)
