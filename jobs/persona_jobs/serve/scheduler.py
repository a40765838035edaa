"""The bounded queue in front of the model: first come, first served, several answers at a time.

The event loop never waits for the model: one thread runs it and posts text as it is generated.
All public methods must be called from the event loop.
"""

import asyncio
import functools
import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ..errors import is_out_of_memory
from .answer import Event, TextAnswer
from .api_errors import ApiError
from .batch import Batch, Job
from .engine import Engine
from .metrics import Metrics
from .prompt import Prompt
from .sampling import Sampling

MAX_RETRY_AFTER = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much the scheduler takes on.

    Attributes:
        batch: requests that are answered at the same time.
        tokens: tokens of all conversations that are held in memory at the same time.
        queue: requests that may wait for that.
    """

    batch: int = 16
    tokens: int = 16_384
    queue: int = 16


class Ticket:
    """A request's place in the queue, which must always be closed.

    Attributes:
        events: the events of the answer, in order; the last is `Finished` or an `ApiError`.
        arrived: when the request arrived, by the monotonic clock.
        started: when the model began to work on it; None while it waits.
    """

    def __init__(self, scheduler: "Scheduler") -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.arrived = time.monotonic()
        self.started: float | None = None
        self._cancelled = threading.Event()
        self._scheduler = scheduler

    @property
    def cancelled(self) -> bool:
        """Return whether nobody waits for the answer."""
        return self._cancelled.is_set()

    def start(
        self,
        prompt: Prompt,
        sampling: Sampling,
        stops: tuple[str, ...] = (),
        top_logprobs: int | None = None,
    ) -> None:
        """Add the generation to the queue."""
        answer = TextAnswer(
            self._scheduler.engine,
            self._scheduler.metrics,
            arrived=self.arrived,
            stops=stops,
            is_cancelled=self._cancelled.is_set,
            post=functools.partial(self._scheduler.post, self),
        )
        self._scheduler.submit(
            Job(prompt.ids, prompt.max_new_tokens, sampling, answer, top_logprobs), self
        )

    def abort(self, error: ApiError) -> None:
        """End the request with an error; the model stops at its next step."""
        self.events.put_nowait(error)
        self._cancelled.set()

    def close(self) -> None:
        """Leave the queue; the model stops at its next step."""
        self._cancelled.set()
        self._scheduler.leave(self)


class Scheduler:
    """The queue of requests and the batch of those that are being answered.

    Args:
        engine: the model.
        metrics: the metrics to update.
        model_thread: the only thread that runs the model.
        limits: how much is taken on.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, model_thread: ThreadPoolExecutor, limits: Limits
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self.broken = False
        self._loop = asyncio.get_running_loop()
        self._model_thread = model_thread
        self._limits = limits
        self._batch = Batch(engine, max_rows=limits.batch, max_tokens=limits.tokens)
        self._tickets: set[Ticket] = set()
        self._seconds = 1.0
        self._counted = (0, 0)  # this scheduler's share of the gauges: running, waiting
        self._closed: ApiError | None = None
        # Shared with the model's thread.
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Job, Ticket]] = deque()
        self._working = False

    def admit(self) -> Ticket:
        """Return a place in the queue.

        Raises:
            ApiError: 429 if the queue is full, 503 if the server is stopping.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._tickets) >= self._limits.batch + self._limits.queue:
            pause = math.ceil(self._seconds * len(self._tickets) / self._limits.batch)
            raise ApiError(
                429,
                f"{len(self._tickets)} requests are already being answered or waiting. "
                "Try again later.",
                code="queue_full",
                retry_after=min(max(pause, 1), MAX_RETRY_AFTER),
            )
        ticket = Ticket(self)
        self._tickets.add(ticket)
        self._update_gauges()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Remove a request from the queue."""
        self._tickets.discard(ticket)
        self._update_gauges()

    def close(self, error: ApiError) -> None:
        """End all requests with `error` and admit no further ones."""
        self._closed = error
        for ticket in list(self._tickets):
            ticket.abort(error)

    @property
    def active(self) -> int:
        """Return the number of waiting and running requests."""
        return len(self._tickets)

    def submit(self, job: Job, ticket: Ticket) -> None:
        """Add a job to the queue and wake up the model's thread."""
        with self._lock:
            self._waiting.append((job, ticket))
            if self._working:
                return
            self._working = True
        self._loop.run_in_executor(self._model_thread, self._work)

    def post(self, ticket: Ticket, event: Event, last: bool) -> None:
        """Hand an event of an answer to the event loop; called in the model's thread."""
        self._loop.call_soon_threadsafe(self._deliver, ticket, event, last)

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

    def _work(self) -> None:
        """Answer requests until there are none; called in the model's thread."""
        while self._take_waiting():
            try:
                self._batch.step()
            except Exception as error:  # the clients receive an answer for any error
                if is_out_of_memory(error):
                    self._batch.make_room(self.failed(error))
                else:
                    self._batch.clear(self.failed(error))

    def _take_waiting(self) -> bool:
        """Let waiting requests join, in their order; return whether there is work."""
        with self._lock:
            self._waiting = deque(
                (job, ticket) for job, ticket in self._waiting if not ticket.cancelled
            )
            while self._waiting and self._batch.fits(self._waiting[0][0]):
                job, ticket = self._waiting.popleft()
                ticket.started = time.monotonic()
                self.metrics.queue_wait.observe(ticket.started - ticket.arrived)
                self._batch.join(job)
                self._loop.call_soon_threadsafe(self._update_gauges)
            self._working = bool(len(self._batch))
            return self._working

    def _deliver(self, ticket: Ticket, event: Event, last: bool) -> None:
        ticket.events.put_nowait(event)
        if last:
            if ticket.started is not None:
                took = time.monotonic() - ticket.started
                self._seconds += 0.3 * (took - self._seconds)
            self.leave(ticket)  # a client that reads slowly does not block the queue

    def _update_gauges(self) -> None:
        running = sum(ticket.started is not None for ticket in self._tickets)
        waiting = len(self._tickets) - running
        # The gauges are the sums of all models' schedulers.
        self.metrics.running.inc(running - self._counted[0])
        self.metrics.queue_depth.inc(waiting - self._counted[1])
        self._counted = (running, waiting)
