"""The text of one answer, made of its tokens in the model's thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .api_errors import ApiError
from .batch import Token
from .engine import Engine
from .metrics import Metrics
from .protocol import FinishReason
from .text_stream import StopText, TokenText


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: the text, which may be empty.
        tokens: the tokens whose text begins here, if the request asks for their log-probabilities.
    """

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of an answer, with the number of generated tokens."""

    reason: FinishReason
    completion_tokens: int


Event = Piece | Finished | ApiError
"""A part of an answer, or its end."""


class TextAnswer:
    """The receiver of one answer's tokens, which posts its text to the event loop.

    Args:
        engine: decodes the tokens.
        metrics: the metrics to update.
        arrived: when the request arrived, by the monotonic clock.
        stops: the stop strings.
        is_cancelled: returns whether nobody waits for the answer.
        post: takes each event, and whether it is the last one.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        arrived: float,
        stops: tuple[str, ...],
        is_cancelled: Callable[[], bool],
        post: Callable[[Event, bool], None],
    ) -> None:
        self._end_tokens = engine.end_tokens
        self._metrics = metrics
        self._arrived = arrived
        self._is_cancelled = is_cancelled
        self._post = post
        self._text = TokenText(engine.decode)
        self._stop = StopText(stops)
        self._count = 0
        self._ended = False
        self._first = self._last = 0.0
        self._decoded = self._passed = 0
        self._held: list[tuple[int, Token]] = []

    @property
    def cancelled(self) -> bool:
        """Return whether nobody waits for the answer."""
        return self._is_cancelled()

    def push(self, token: Token) -> bool:
        """Add a token and return whether the generation continues."""
        self._last = time.monotonic()
        if not self._count:
            self._first = self._last
            self._metrics.first_token.observe(self._first - self._arrived)
        self._count += 1
        if token.id in self._end_tokens:
            self._ended = True
            return False
        if token.logprob is not None:
            self._held.append((self._decoded, token))
        self._decode(self._text.push(token.id))
        return not self._stop.stopped

    def finish(self) -> None:
        """Post the remaining text and the end of the answer."""
        self._decode(self._text.finish())
        self._pass_on(self._stop.finish(), all_tokens=not self._stop.stopped)
        if self._count > 1:
            self._metrics.output_token.observe((self._last - self._first) / (self._count - 1))
        self._metrics.completion_tokens.observe(self._count)
        reason: FinishReason = "stop" if self._ended or self._stop.stopped else "length"
        self._post(Finished(reason, self._count), True)

    def fail(self, error: ApiError) -> None:
        """End the answer with an error."""
        self._post(error, True)

    def _decode(self, text: str) -> None:
        self._decoded += len(text)
        self._pass_on(self._stop.push(text))

    def _pass_on(self, text: str, *, all_tokens: bool = False) -> None:
        """Post text, with the tokens that begin in it: those of a stop string never come."""
        self._passed += len(text)
        ready = [token for at, token in self._held if all_tokens or at < self._passed]
        self._held = self._held[len(ready) :]
        if text or ready:
            self._post(Piece(text, tuple(ready)), False)
