"""The operator's own writes that no watch has shown yet.

A Job counts from the moment of the decision to create it, so neither a second reconciliation nor
another PersonaModel creates it again before a watch shows it. (Kubernetes' own controllers call
this bookkeeping expectations.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .reconcile import Job
from .server_clock import local_time

JobKey = tuple[str, str]
"""Namespace and name of a Job."""
RESERVATION_SECONDS = 15.0


@dataclass(frozen=True)
class _Reservation:
    job: Job
    until: float


class Expectations:
    """Jobs about to be created, and Jobs about to be suspended or resumed.

    What is expected ends by itself after `RESERVATION_SECONDS`: a lost answer of the API server
    holds back a stage no longer than that.

    Args:
        clock: returns the seconds of a steady clock.
        now: returns the API server's time.
    """

    def __init__(
        self, clock: Callable[[], float], now: Callable[[], datetime] = local_time
    ) -> None:
        self._clock = clock
        self._now = now
        self._reserved: dict[JobKey, _Reservation] = {}
        self._suspended: dict[JobKey, tuple[bool, float]] = {}

    def reserve(self, manifest: Mapping[str, Any]) -> None:
        """Expect a Job that is about to be created."""
        created = self._now().isoformat()
        metadata = {**manifest["metadata"], "creationTimestamp": created}
        job = Job.from_object({**manifest, "metadata": metadata})
        until = self._clock() + RESERVATION_SECONDS
        self._reserved[(job.namespace, job.name)] = _Reservation(job, until)

    def expect_suspend(self, namespace: str, name: str, suspend: bool) -> None:
        """Expect a Job to be suspended or resumed."""
        self._suspended[(namespace, name)] = (suspend, self._clock() + RESERVATION_SECONDS)

    def withdraw_suspend(self, namespace: str, name: str) -> None:
        """Expect no change of a Job whose request failed; it is requested again."""
        self._suspended.pop((namespace, name), None)

    def fulfil(self, namespace: str, name: str) -> None:
        """Expect nothing more of a Job: a watch has shown it, or it could not be created."""
        self._reserved.pop((namespace, name), None)
        self._suspended.pop((namespace, name), None)

    def reserved_jobs(self) -> dict[JobKey, Job]:
        """Return the Jobs about to be created."""
        now = self._clock()
        self._reserved = {key: item for key, item in self._reserved.items() if item.until > now}
        return {key: item.job for key, item in self._reserved.items()}

    def apply_to(self, job: Job) -> Job:
        """Return `job` as it will be once the expected change is made."""
        at = (job.namespace, job.name)
        suspended, until = self._suspended.get(at, (job.suspended, 0.0))
        if until <= self._clock():
            self._suspended.pop(at, None)
            return job
        return replace(job, suspended=suspended, suspended_by_operator=suspended)
