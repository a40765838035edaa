"""Text of a growing token sequence, piece by piece, and its end at a stop string.

One object serves one request.
"""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"


class TokenText:
    """Turns tokens into text that is final: pieces joined give the text of the whole sequence.

    Only a short window of tokens is decoded each time: from the start of the last piece that was
    given out, so that tokenizers which join or trim neighbors see them. Text that ends within a
    character (byte-level tokens) waits for the rest.

    Args:
        decode: token ids to text, special tokens left out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0
        self._given = 0

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now, often empty."""
        self._ids.append(token)
        before, text = self._texts()
        if len(text) <= len(before) or text.endswith(REPLACEMENT):
            return ""
        self._window, self._given = self._given, len(self._ids)
        return text[len(before) :]

    def finish(self) -> str:
        """Return the rest: a sequence that ends within a character shows the replacement sign."""
        before, text = self._texts()
        self._window = self._given = len(self._ids)
        return text[len(before) :]

    def _texts(self) -> tuple[str, str]:
        window = self._ids[self._window :]
        return self._decode(window[: self._given - self._window]), self._decode(window)


class StopText:
    """Passes text on until a stop string appears; the stop string itself is left out.

    Text that may be the start of a stop string is held back until that is decided.

    Args:
        stops: the stop strings; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text and return what can be passed on."""
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
        """Return what was held back: no stop string came."""
        passed, self._held = self._held, ""
        return passed

    def _undecided(self) -> int:
        """Return the length of the longest end of the held text that a stop string starts with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
