"""Which results the store holds already, looked up with the operator's own credentials.

Answers are cached; lookups run in threads of their own, so a slow store delays nothing else. A
store that can't be reached is asked once for all PersonaModels, and again after
`UNREACHABLE_SECONDS`.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from persona_jobs.errors import PersonaError
from persona_jobs.pipeline.references import add_references
from persona_jobs.store import S3Options, StageArtifacts, Store, gives_credentials, open_store

from .reconcile import Stored
from .server_clock import local_time
from .settings import Store as StoreSettings
from .store_access import StoreAccess, is_operators_own

logger = logging.getLogger(__name__)
StageKey = tuple[str, str]
UNREACHABLE_SECONDS = 15.0
LOOKUP_SECONDS = 12.0
THREADS = 4
_UNKNOWN = Stored("Unknown")
_PENDING = Stored("Pending")


@dataclass
class _Answer:
    stored: Stored
    expires: float


def open_own_store(
    access: StoreAccess, default: StoreSettings, environ: Mapping[str, str] = os.environ
) -> Store | None:
    """Open the persona's store with the operator's own credentials.

    Returns None where the operator has none, or where the store isn't the administrator's.
    """
    if not is_operators_own(access, default):
        return None
    if access.uri.startswith("file://"):
        return open_store(access.uri)
    if not gives_credentials(environ):
        return None
    options = replace(
        S3Options.from_environment(environ),
        endpoint=access.endpoint or environ.get("AWS_ENDPOINT_URL_S3"),
        region=access.region or environ.get("AWS_REGION"),
        path_style=access.addressing_style != "virtual",
        attempts=2,
        connect_timeout=3.0,
        read_timeout=10.0,
    )
    return open_store(access.uri, options)


class StoreProbe:
    """Looks up content keys, in a cache that refills itself.

    Args:
        default: the administrator's store.
        opener: opens a store, or returns None where the operator may not read it.
        absent_seconds: how long the answer that there is no result stays valid.
        clock: returns the seconds of a steady clock.
        now: returns the API server's time.
        on_error: called in a thread whenever the store can't be read.
    """

    def __init__(
        self,
        default: StoreSettings,
        *,
        opener: Callable[[StoreAccess, StoreSettings], Store | None] = open_own_store,
        absent_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = local_time,
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        self._default = default
        self._opener = opener
        self._absent_seconds = absent_seconds
        self._clock = clock
        self._now = now
        self._on_error = on_error
        self._answers: dict[tuple[str, StageKey], _Answer] = {}
        self._pending: dict[tuple[str, StageKey], float] = {}
        self._unreachable: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(THREADS, "store")
        self._tasks: set[asyncio.Task[None]] = set()
        self._referred: dict[str, frozenset[StageKey]] = {}

    def look_up(
        self, access: StoreAccess, keys: Iterable[StageKey], done: Callable[[], None]
    ) -> dict[StageKey, Stored]:
        """Return what is known of `keys` now; look up the others, then call `done`.

        Never blocks. A lookup that takes too long counts as unknown, so work continues.
        """
        now = self._clock()
        result: dict[StageKey, Stored] = {}
        missing = []
        for key in keys:
            at = (access.identity, key)
            answer = self._answers.get(at)
            if answer is not None and answer.expires > now:
                result[key] = answer.stored
            elif self._is_unreachable(access):
                result[key] = _UNKNOWN
            elif at in self._pending:
                patient = now - self._pending[at] < LOOKUP_SECONDS
                result[key] = _PENDING if patient else _UNKNOWN
            else:
                missing.append(key)
        if missing and is_operators_own(access, self._default):
            for key in missing:
                self._pending[(access.identity, key)] = now
                result[key] = _PENDING
            task = asyncio.get_running_loop().create_task(self._look_up(access, missing, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return result

    def refer(self, access: StoreAccess, owner: str, keys: Iterable[StageKey]) -> None:
        """Say in the store, once, that `owner` uses these results; the stages do so too.

        Never blocks. Where the store can't be written, a later call tries again.
        """
        wanted = frozenset(keys)
        known = self._referred.get(owner) == wanted
        if known or not is_operators_own(access, self._default) or self._is_unreachable(access):
            return
        self._referred[owner] = wanted
        task = asyncio.get_running_loop().create_task(self._refer(access, owner, wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refer(self, access: StoreAccess, owner: str, keys: frozenset[StageKey]) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._write_references, access, owner, keys)
        except PersonaError as error:
            self._referred.pop(owner, None)
            self._warn(access, error)

    def _write_references(self, access: StoreAccess, owner: str, keys: frozenset[StageKey]) -> None:
        store = self._opener(access, self._default)
        if store is not None:
            add_references(store, owner, keys)

    def forget(self, access: StoreAccess, keys: Iterable[StageKey]) -> None:
        """Look results up again, whatever the last answer was."""
        for key in keys:
            self._answers.pop((access.identity, key), None)

    def forget_absent(self, key: StageKey) -> None:
        """Look a result up again that was absent: a Job has just made it."""
        self._answers = {
            at: item
            for at, item in self._answers.items()
            if at[1] != key or item.stored.state == "Present"
        }

    async def _look_up(
        self, access: StoreAccess, keys: list[StageKey], done: Callable[[], None]
    ) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._threads, self._read, access, keys)
        except Exception:
            logger.exception("The lookup in the store failed", extra={"store": access.uri})
            answers = dict.fromkeys(keys, _UNKNOWN)
        now = self._clock()
        for key, stored in answers.items():
            lifetime = {
                "Present": 3600.0,
                "Absent": self._absent_seconds,
            }.get(stored.state, UNREACHABLE_SECONDS)
            self._answers[(access.identity, key)] = _Answer(stored, now + lifetime)
            self._pending.pop((access.identity, key), None)
        self._answers = {at: item for at, item in self._answers.items() if item.expires > now}
        done()

    def close(self) -> None:
        """Start no further lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_unreachable(self, access: StoreAccess) -> bool:
        return self._unreachable.get(access.identity, -math.inf) > self._clock()

    def _read(self, access: StoreAccess, keys: list[StageKey]) -> dict[StageKey, Stored]:
        if self._is_unreachable(access):  # Another lookup has found out meanwhile.
            return dict.fromkeys(keys, _UNKNOWN)
        now = self._now()
        try:
            store = self._opener(access, self._default)
        except PersonaError as error:
            self._warn(access, error)
            store = None
        if store is None:
            return dict.fromkeys(keys, _UNKNOWN)
        artifacts = StageArtifacts(store, None)
        result: dict[StageKey, Stored] = {}
        for position, key in enumerate(keys):
            try:
                manifest = artifacts.finished(*key)
            except PersonaError as error:
                self._warn(access, error)
                return result | dict.fromkeys(keys[position:], _UNKNOWN)
            if manifest is None:
                result[key] = Stored("Absent", looked_up=now)
            else:
                result[key] = Stored("Present", manifest.metrics, now)
        return result

    def _warn(self, access: StoreAccess, error: PersonaError) -> None:
        self._on_error()
        if not self._is_unreachable(access):
            logger.warning("The store can't be read: %s", error, extra={"store": access.uri})
        self._unreachable[access.identity] = self._clock() + UNREACHABLE_SECONDS
