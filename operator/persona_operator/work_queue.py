"""Runs the work of each key once at a time; requests that arrive meanwhile become one more run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)
Key = tuple[str, str]
MAX_PARALLEL = 8


@dataclass
class _Entry:
    due: float | None = None
    timer: asyncio.TimerHandle | None = None
    running: asyncio.Task[None] | None = None


class WorkQueue:
    """Serialises the work of each key, and runs at most `MAX_PARALLEL` keys at once.

    Args:
        work: called with a key; its exceptions are logged, and it must queue its own retries.
    """

    def __init__(self, work: Callable[[Key], Awaitable[None]]) -> None:
        self._work = work
        self._entries: dict[Key, _Entry] = {}
        self._slots = asyncio.Semaphore(MAX_PARALLEL)
        self._stopped = False
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Return how many keys are due and wait for one of the `MAX_PARALLEL` places."""
        return self._waiting

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Run the work of `key` after `delay` seconds at the latest."""
        if self._stopped:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        entry = self._entries.setdefault(key, _Entry())
        if entry.due is not None and entry.due <= due:
            return
        entry.due = due
        if entry.running is None:
            self._arm(key, entry)

    async def stop(self, patience: float = 20.0) -> None:
        """Start nothing new and wait for running work."""
        self._stopped = True
        running = []
        for entry in self._entries.values():
            if entry.timer:
                entry.timer.cancel()
            if entry.running:
                running.append(entry.running)
        if running:
            await asyncio.wait(running, timeout=patience)
        self._entries.clear()

    def _arm(self, key: Key, entry: _Entry) -> None:
        if entry.timer:
            entry.timer.cancel()
        if entry.due is not None:
            loop = asyncio.get_running_loop()
            entry.timer = loop.call_at(entry.due, self._start, key, entry)

    def _start(self, key: Key, entry: _Entry) -> None:
        if self._stopped:
            return
        entry.due = entry.timer = None
        entry.running = asyncio.get_running_loop().create_task(self._run(key, entry))

    async def _take_place(self) -> None:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    async def _run(self, key: Key, entry: _Entry) -> None:
        try:
            await self._take_place()
            try:
                await self._work(key)
            finally:
                self._slots.release()
        except Exception:
            logger.exception(
                "The work of the queue failed", extra={"namespace": key[0], "persona": key[1]}
            )
        finally:
            entry.running = None
            if entry.due is not None and not self._stopped:
                self._arm(key, entry)
            elif self._entries.get(key) is entry:
                del self._entries[key]
