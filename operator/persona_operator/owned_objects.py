"""The objects that the operator owns, as kopf's indexes show them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .expectations import Expectations, JobKey
from .labels import CHECKSUM_ANNOTATION, PERSONA_LABEL, key_label
from .reconcile import Deployment, Job, Pod

Raw = Mapping[str, Any]
PersonaKey = tuple[str, str]
"""Namespace and name of a PersonaModel."""
RolloutWait = tuple[str, PersonaKey]
"""Since when a PersonaModel's roll-out waits for others, and which it is."""
ALL = ("all",)


class Index(Protocol):
    """The part of `kopf.Index` that is used: objects by key."""

    def get(self, key: Any, default: Any, /) -> Any:
        """Return the objects of a key."""


@dataclass(frozen=True)
class Indexes:
    """kopf's indexes, filled by the functions below.

    Attributes:
        jobs: Jobs by persona, by stage and key, and all.
        pods: pods by Job and by serving persona.
        deployments: Deployments by persona, and all.
        rollout_waits: PersonaModels whose roll-out waits, all under one key.
        others: (kind, name, checksum) of all other objects by persona, one index per kind.
    """

    jobs: Index
    pods: Index
    deployments: Index
    rollout_waits: Index
    others: tuple[Index, ...]


def index_job(document: Raw) -> dict[tuple[str, ...], Job]:
    """Return the index entries of a Job."""
    job = Job.from_object(document)
    entries = [
        ("persona", job.namespace, job.persona),
        ("key", job.stage, key_label(job.key)),
        ALL,
    ]
    return dict.fromkeys(entries, job)


def index_pod(document: Raw) -> dict[tuple[str, ...], Pod]:
    """Return the index entry of a pod."""
    pod = Pod.from_object(document)
    if pod.job:
        return {("job", pod.namespace, pod.job): pod}
    return {("serving", pod.namespace, persona_of(document)): pod}


def index_deployment(document: Raw) -> dict[tuple[str, ...], Deployment]:
    """Return the index entries of a Deployment."""
    entries = [(document["metadata"]["namespace"], persona_of(document)), ALL]
    return dict.fromkeys(entries, Deployment.from_object(document))


def index_rollout_wait(document: Raw) -> dict[tuple[str, ...], RolloutWait] | None:
    """Return the index entry of a PersonaModel whose new serving pods wait for those of others."""
    since = ((document.get("status") or {}).get("serving") or {}).get("rolloutWaitingSince")
    if not since:
        return None
    metadata = document["metadata"]
    return {ALL: (str(since), (metadata["namespace"], metadata["name"]))}


def index_other(kind: str, document: Raw) -> dict[PersonaKey, tuple[str, str, str]]:
    """Return the index entry of any other object: its kind, name and checksum."""
    metadata = document["metadata"]
    checksum = (metadata.get("annotations") or {}).get(CHECKSUM_ANNOTATION, "")
    return {(metadata["namespace"], persona_of(document)): (kind, metadata["name"], checksum)}


def persona_of(document: Raw) -> str:
    """Return the name of the PersonaModel that an object belongs to."""
    labels = document["metadata"].get("labels") or {}
    return str(labels.get(PERSONA_LABEL, ""))


@dataclass(frozen=True)
class OwnedObjects:
    """Lookups of Jobs, pods and all other objects, expected Jobs included.

    Attributes:
        indexes: kopf's indexes.
        expectations: the operator's own writes that the indexes don't show yet.
    """

    indexes: Indexes
    expectations: Expectations

    def jobs(self, persona: PersonaKey, stages: Iterable[tuple[str, str]]) -> tuple[Job, ...]:
        """Return the persona's Jobs, and everyone's Jobs of these (stage, key) pairs."""
        wanted = {(stage, key_label(key)) for stage, key in stages}
        found = {_key(job): job for job in self._indexed(("persona", *persona))}
        for stage, key in wanted:
            found |= {_key(job): job for job in self._indexed(("key", stage, key))}
        for at, job in self.expectations.reserved_jobs().items():
            own = (job.namespace, job.persona) == persona
            if at not in found and (own or (job.stage, key_label(job.key)) in wanted):
                found[at] = job
        return tuple(self._complete(at, job) for at, job in sorted(found.items()))

    def active_jobs(self) -> int:
        """Return the number of Jobs that run or are about to, in all namespaces."""
        found = self.expectations.reserved_jobs()
        found |= {_key(job): job for job in self._indexed(ALL)}
        return sum(job.active for job in found.values())

    def serving_pods(self, persona: PersonaKey) -> tuple[Pod, ...]:
        """Return the pods of the persona's Deployment."""
        return _oldest_first(self.indexes.pods.get(("serving", *persona), ()))

    def deployment(self, persona: PersonaKey) -> Deployment | None:
        """Return the persona's Deployment."""
        found: list[Deployment] = list(self.indexes.deployments.get(persona, ()))
        return found[0] if found else None

    def rolling_out(self) -> set[PersonaKey]:
        """Return the PersonaModels whose serving pods are being replaced, in all namespaces."""
        found: Iterable[Deployment] = self.indexes.deployments.get(ALL, ())
        return {(item.namespace, item.name) for item in found if item.rolling_out}

    def rollout_waits(self) -> list[RolloutWait]:
        """Return the PersonaModels whose roll-out waits, in all namespaces, the longest first."""
        return sorted(self.indexes.rollout_waits.get(ALL, ()))

    def checksums(self, persona: PersonaKey) -> dict[tuple[str, str], str]:
        """Return the checksums of the persona's other objects by kind and name."""
        return {
            (kind, name): checksum
            for index in self.indexes.others
            for kind, name, checksum in index.get(persona, ())
        }

    def _indexed(self, key: tuple[str, ...]) -> list[Job]:
        return list(self.indexes.jobs.get(key, ()))

    def _complete(self, at: JobKey, job: Job) -> Job:
        pods = _oldest_first(self.indexes.pods.get(("job", *at), ()))
        return self.expectations.apply_to(replace(job, pods=pods))


def _key(job: Job) -> JobKey:
    return job.namespace, job.name


def _oldest_first(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    return tuple(sorted(pods, key=lambda pod: (pod.created, pod.name)))
