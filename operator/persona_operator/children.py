"""The operator's objects as kopf's indexes show them, and its own writes not shown yet."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from .labels import CHECKSUM_ANNOTATION, PERSONA_LABEL, key_label
from .reconcile import Deployment, Job, Pod

Raw = Mapping[str, Any]
PersonaKey = tuple[str, str]
"""Namespace and name."""
ALL = ("all",)
RESERVATION_SECONDS = 15.0


class Index(Protocol):
    """What is used of `kopf.Index`: objects by key."""

    def get(self, key: Any, default: Any, /) -> Any:
        """Objects of a key."""


@dataclass(frozen=True)
class Indexes:
    """kopf's indexes, filled by the functions below.

    Attributes:
        jobs: Jobs by persona, by stage and key, and all.
        pods: pods by Job and by serving persona.
        deployments: Deployments by persona.
        owned: (kind, name, checksum) of the other objects by persona.
    """

    jobs: Index
    pods: Index
    deployments: Index
    owned: tuple[Index, ...]


def index_job(document: Raw) -> dict[tuple[str, ...], Job]:
    """Index entries of a Job."""
    job = Job.from_object(document)
    entries = [
        ("persona", job.namespace, job.persona),
        ("key", job.stage, key_label(job.key)),
        ALL,
    ]
    return dict.fromkeys(entries, job)


def index_pod(document: Raw) -> dict[tuple[str, ...], Pod]:
    """Index entries of a pod."""
    pod = Pod.from_object(document)
    if pod.job:
        return {("job", pod.namespace, pod.job): pod}
    return {("serving", pod.namespace, persona_of(document)): pod}


def index_deployment(document: Raw) -> dict[PersonaKey, Deployment]:
    """Index entry of a Deployment."""
    namespace = document["metadata"]["namespace"]
    return {(namespace, persona_of(document)): Deployment.from_object(document)}


def index_owned(kind: str, document: Raw) -> dict[PersonaKey, tuple[str, str, str]]:
    """Index entry of any other object: kind, name and checksum."""
    head = document["metadata"]
    checksum = (head.get("annotations") or {}).get(CHECKSUM_ANNOTATION, "")
    return {(head["namespace"], persona_of(document)): (kind, head["name"], checksum)}


def persona_of(document: Raw) -> str:
    """Name of the PersonaModel that an object belongs to."""
    labels = document["metadata"].get("labels") or {}
    return str(labels.get(PERSONA_LABEL, ""))


@dataclass
class _Reservation:
    job: Job
    until: float


@dataclass
class Children:
    """Jobs, pods and the rest, as far as the operator knows.

    A Job that the operator is just making counts from the moment of the decision: so neither a
    second reconciliation nor another PersonaModel makes it again before a watch shows it.

    Attributes:
        indexes: kopf's indexes.
        clock: seconds of a steady clock.
    """

    indexes: Indexes
    clock: Callable[[], float]
    _reserved: dict[tuple[str, str], _Reservation] = field(default_factory=dict)
    _suspended: dict[tuple[str, str], bool] = field(default_factory=dict)

    def reserve(self, manifest: Raw) -> None:
        """A Job is about to be made."""
        document = {
            **manifest,
            "metadata": {
                **manifest["metadata"],
                "creationTimestamp": datetime.now(UTC).isoformat(),
            },
        }
        job = Job.from_object(document)
        until = self.clock() + RESERVATION_SECONDS
        self._reserved[(job.namespace, job.name)] = _Reservation(job, until)

    def release(self, namespace: str, name: str) -> None:
        """A Job was shown by the watch, or could not be made."""
        self._reserved.pop((namespace, name), None)
        self._suspended.pop((namespace, name), None)

    def expect_suspend(self, namespace: str, name: str, suspend: bool) -> None:
        """A Job is about to be suspended or let go on."""
        self._suspended[(namespace, name)] = suspend

    def jobs(self, persona: PersonaKey, stages: Iterable[tuple[str, str]]) -> tuple[Job, ...]:
        """The persona's Jobs, and everyone's Jobs of these (stage, key) pairs."""
        wanted = {(stage, key_label(key)) for stage, key in stages}
        found = {(job.namespace, job.name): job for job in self._get(("persona", *persona))}
        for stage, key in wanted:
            for job in self._get(("key", stage, key)):
                found[(job.namespace, job.name)] = job
        for at, job in self._reservations():
            own = (job.namespace, job.persona) == persona
            if at not in found and (own or (job.stage, key_label(job.key)) in wanted):
                found[at] = job
        return tuple(self._complete(at, job) for at, job in sorted(found.items()))

    def active_jobs(self) -> int:
        """Jobs at work in all namespaces."""
        found = {(job.namespace, job.name): job for job in self._get(ALL)}
        found |= {at: job for at, job in self._reservations() if at not in found}
        return sum(job.active for job in found.values())

    def serving_pods(self, persona: PersonaKey) -> tuple[Pod, ...]:
        """Pods of the persona's Deployment."""
        pods = self.indexes.pods.get(("serving", *persona), ())
        return tuple(sorted(pods, key=lambda pod: (pod.created, pod.name)))

    def deployment(self, persona: PersonaKey) -> Deployment | None:
        """The persona's Deployment."""
        found: list[Deployment] = list(self.indexes.deployments.get(persona, ()))
        return found[0] if found else None

    def owned(self, persona: PersonaKey) -> dict[tuple[str, str], str]:
        """Checksums of the persona's other objects by kind and name."""
        return {
            (kind, name): checksum
            for index in self.indexes.owned
            for kind, name, checksum in index.get(persona, ())
        }

    def _get(self, key: tuple[str, ...]) -> list[Job]:
        return list(self.indexes.jobs.get(key, ()))

    def _reservations(self) -> list[tuple[tuple[str, str], Job]]:
        now = self.clock()
        self._reserved = {at: item for at, item in self._reserved.items() if item.until > now}
        return [(at, item.job) for at, item in self._reserved.items()]

    def _complete(self, at: tuple[str, str], job: Job) -> Job:
        pods = self.indexes.pods.get(("job", *at), ())
        suspended = self._suspended.get(at, job.suspended)
        ordered = tuple(sorted(pods, key=lambda pod: (pod.created, pod.name)))
        return replace(job, pods=ordered, suspended=suspended)
