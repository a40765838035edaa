"""Text of a growing token sequence, piece by piece, and its end at a stop string.

Each object belongs to one request.
"""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"


class TokenText:
    """A decoder of a token sequence; the joined pieces are the text of the whole sequence.

    Each call decodes only a short window of tokens, from the start of the last returned piece, so
    that tokenizers which join or trim neighbors see them. Text that ends within a character
    (byte-level tokens) is held back until the character is complete.

    Args:
        decode: converts token ids to text without special tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0
        self._given = 0

    def push(self, token: int) -> str:
        """Add a token and return the text that is final now, often an empty string."""
        self._ids.append(token)
        before, text = self._texts()
        if len(text) <= len(before) or text.endswith(REPLACEMENT):
            return ""
        self._window, self._given = self._given, len(self._ids)
        return text[len(before) :]

    def finish(self) -> str:
        """Return the remaining text; an incomplete character becomes the replacement character."""
        before, text = self._texts()
        self._window = self._given = len(self._ids)
        return text[len(before) :]

    def _texts(self) -> tuple[str, str]:
        window = self._ids[self._window :]
        return self._decode(window[: self._given - self._window]), self._decode(window)


class StopText:
    """A filter that passes text on until a stop string appears and drops the stop string.

    Text that may be the start of a stop string is held back until this is decided.

    Args:
        stops: the stop strings, none of which is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text and return the text that can be passed on."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            passed, self._held = self._held[: min(found)], ""
            return passed
        keep = self._undecided()
        passed = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return passed

    def finish(self) -> str:
        """Return the text that was held back, since no stop string appeared."""
        passed, self._held = self._held, ""
        return passed

    def _undecided(self) -> int:
        """Return the length of the longest suffix of the held text that starts a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
