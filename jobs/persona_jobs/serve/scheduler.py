"""The bounded queue in front of the engine: first come, first served, one answer at a time.

The event loop never waits for the model: one thread runs it and posts text as it is generated.
All public methods must be called from the event loop.
"""

import asyncio
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ..errors import is_out_of_memory
from .api_errors import ApiError
from .engine import Engine
from .metrics import Metrics
from .prompt import Prompt
from .protocol import FinishReason
from .sampling import Sampling
from .text_stream import StopText, TokenText

MAX_RETRY_AFTER = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """The end of an answer, with the number of generated tokens."""

    reason: FinishReason
    completion_tokens: int


Event = str | Finished | ApiError
"""A piece of text, or the end of the answer."""


class Ticket:
    """A request's place in the queue, which must always be closed.

    Attributes:
        events: the events of the answer, in order; the last is `Finished` or an `ApiError`.
    """

    def __init__(self, scheduler: "Scheduler") -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.arrived = time.monotonic()
        self.cancelled = threading.Event()
        self._scheduler = scheduler
        self._running = False
        self._task: asyncio.Task[None] | None = None

    def start(self, prompt: Prompt, sampling: Sampling, stops: tuple[str, ...]) -> None:
        """Add the generation to the queue."""
        self._task = asyncio.create_task(self._run(prompt, sampling, stops))

    def abort(self, error: ApiError) -> None:
        """End the request with an error; a running generation stops at its next token."""
        self.events.put_nowait(error)
        self._cancel()

    def close(self) -> None:
        """Leave the queue; a running generation stops at its next token."""
        self._cancel()
        self._scheduler.leave(self)

    def _cancel(self) -> None:
        self.cancelled.set()
        if self._task is not None and not self._running:
            self._task.cancel()

    async def _run(self, prompt: Prompt, sampling: Sampling, stops: tuple[str, ...]) -> None:
        scheduler = self._scheduler
        async with scheduler.slot:
            self._running = True
            scheduler.metrics.running.set(1)
            scheduler.metrics.queue_wait.observe(time.monotonic() - self.arrived)
            scheduler.update_depth()
            started = time.monotonic()
            try:
                await asyncio.get_running_loop().run_in_executor(
                    scheduler.model_thread, self._generate, prompt, sampling, stops
                )
            finally:
                self._running = False
                scheduler.metrics.running.set(0)
                scheduler.took(time.monotonic() - started)
                scheduler.leave(self)  # a client that reads slowly does not block the queue

    @property
    def waiting(self) -> bool:
        """Return whether the model has not started the answer."""
        return not self._running

    def _generate(self, prompt: Prompt, sampling: Sampling, stops: tuple[str, ...]) -> None:
        """Generate the answer; called in the model's thread."""
        loop = self._scheduler.loop
        try:
            answer = _Answer(self, self._scheduler, stops)
            self._scheduler.engine.generate(
                prompt.ids,
                max_new_tokens=prompt.max_new_tokens,
                sampling=sampling,
                on_token=answer.push,
            )
            answer.finish()
        except Exception as error:  # the client receives an answer for any error
            error = self._scheduler.failed(error)
            loop.call_soon_threadsafe(self.events.put_nowait, error)


class _Answer:
    """The tokens of one answer, collected in the model's thread."""

    def __init__(self, ticket: Ticket, scheduler: "Scheduler", stops: tuple[str, ...]) -> None:
        self._ticket = ticket
        self._scheduler = scheduler
        self._text = TokenText(scheduler.engine.decode)
        self._stop = StopText(stops)
        self._count = 0
        self._ended = False
        self._first = self._last = 0.0

    def push(self, token: int) -> bool:
        """Add a token and return whether the generation continues."""
        self._last = time.monotonic()
        if not self._count:
            self._first = self._last
            self._scheduler.metrics.first_token.observe(self._first - self._ticket.arrived)
        self._count += 1
        if token in self._scheduler.engine.end_tokens:
            self._ended = True
            return False
        self._post(self._stop.push(self._text.push(token)))
        return not self._stop.stopped and not self._ticket.cancelled.is_set()

    def finish(self) -> None:
        """Post the remaining text and the end of the answer."""
        self._post(self._stop.push(self._text.finish()))
        self._post(self._stop.finish())
        metrics = self._scheduler.metrics
        if self._count > 1:
            metrics.output_token.observe((self._last - self._first) / (self._count - 1))
        metrics.completion_tokens.observe(self._count)
        reason: FinishReason = "stop" if self._ended or self._stop.stopped else "length"
        self._put(Finished(reason, self._count))

    def _post(self, text: str) -> None:
        if text:
            self._put(text)

    def _put(self, event: Event) -> None:
        self._scheduler.loop.call_soon_threadsafe(self._ticket.events.put_nowait, event)


class Scheduler:
    """The queue of requests, which runs them one after the other.

    Args:
        engine: the model.
        metrics: the metrics to update.
        model_thread: the only thread that runs the model.
        max_queue: requests that may wait while one is running.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, model_thread: ThreadPoolExecutor, *, max_queue: int
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self.model_thread = model_thread
        self.loop = asyncio.get_running_loop()
        self.slot = asyncio.Semaphore(1)
        self.broken = False
        self._max_queue = max_queue
        self._tickets: set[Ticket] = set()
        self._seconds = 1.0
        self._closed: ApiError | None = None

    def admit(self) -> Ticket:
        """Return a place in the queue.

        Raises:
            ApiError: 429 if the queue is full, 503 if the server is stopping.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._tickets) > self._max_queue:
            pause = math.ceil(self._seconds * len(self._tickets))
            raise ApiError(
                429,
                f"{self._max_queue} requests are already waiting. Try again later.",
                code="queue_full",
                retry_after=min(max(pause, 1), MAX_RETRY_AFTER),
            )
        ticket = Ticket(self)
        self._tickets.add(ticket)
        self.update_depth()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Remove a request from the queue."""
        self._tickets.discard(ticket)
        self.update_depth()

    def close(self, error: ApiError) -> None:
        """End all requests with `error` and admit no further ones."""
        self._closed = error
        for ticket in list(self._tickets):
            ticket.abort(error)

    @property
    def active(self) -> int:
        """Return the number of waiting and running requests."""
        return len(self._tickets)

    def update_depth(self) -> None:
        """Update the metric of waiting requests."""
        self.metrics.queue_depth.set(sum(ticket.waiting for ticket in self._tickets))

    def took(self, seconds: float) -> None:
        """Update the mean duration of a generation, for the next Retry-After."""
        self._seconds += 0.3 * (seconds - self._seconds)

    def failed(self, error: Exception) -> ApiError:
        """Return the client's error for an exception in the model's thread."""
        if is_out_of_memory(error):
            logger.error("The model ran out of memory: %s", error)
            return ApiError(
                503, "The server ran out of memory. Shorten the messages.", code="out_of_memory"
            )
        logger.error("The generation failed", exc_info=error)
        # After such an error, every later call on the device fails, and only a restart helps.
        self.broken = self.broken or isinstance(error, getattr(torch, "AcceleratorError", ()))
        return ApiError(500, "The generation failed; the server's log has the cause.")
