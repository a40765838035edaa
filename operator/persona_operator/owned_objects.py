"""The objects that the operator owns, as its cache shows them, and the Jobs that are expected."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from persona_jobs.api.status import PersonaModelStatus, RevisionStatus

from .expectations import Expectations, JobKey
from .labels import key_label
from .object_cache import ACTIVE, ROLLING_OUT, WAITS_FOR_ROLLOUT, ObjectCache, PersonaKey
from .reconcile import Deployment, Job, Pod
from .reconcile.stage_situation import EVALUATE

RolloutWait = tuple[str, PersonaKey]
"""Since when a PersonaModel's roll-out waits for others, and which it is."""


@dataclass(frozen=True)
class OwnedObjects:
    """Look-ups of Jobs, pods and all other objects, expected Jobs included.

    Attributes:
        cache: the objects in the cluster.
        expectations: the operator's own writes that the cache doesn't show yet.
    """

    cache: ObjectCache
    expectations: Expectations

    def jobs(self, persona: PersonaKey, stages: Iterable[tuple[str, str]]) -> tuple[Job, ...]:
        """Return the persona's Jobs, and everyone's Jobs of these (stage, key) pairs."""
        wanted = {(stage, key_label(key)) for stage, key in stages}
        found = self.cache.jobs.find(("persona", *persona))
        for stage, key in wanted:
            found |= self.cache.jobs.find(("key", stage, key))
        for at, job in self.expectations.reserved_jobs().items():
            own = (job.namespace, job.persona) == persona
            if at not in found and (own or (job.stage, key_label(job.key)) in wanted):
                found[at] = job
        return tuple(self._complete(at, job) for at, job in sorted(found.items()))

    def finished_elsewhere(
        self, persona: PersonaKey, store: str, stages: Iterable[tuple[str, str]]
    ) -> frozenset[tuple[str, str]]:
        """Return which stages the statuses of other PersonaModels list as finished in a store."""
        return frozenset(
            (stage, key)
            for stage, key in stages
            if set(self.cache.personas.find(("finished", store, f"{stage}/{key}"))) - {persona}
        )

    def revisions_elsewhere(
        self, persona: PersonaKey, store: str, finished: Iterable[tuple[str, str]]
    ) -> dict[str, RevisionStatus]:
        """Return the evaluated models of other PersonaModels by their evaluation's key."""
        found: dict[str, RevisionStatus] = {}
        for stage, key in finished:
            if stage != EVALUATE:
                continue
            for other in self.cache.personas.find(("finished", store, f"{stage}/{key}")):
                document = self.cache.persona(other) if other != persona else None
                status = PersonaModelStatus.read((document or {}).get("status") or {})
                found |= {r.evaluate_key: r for r in status.revisions if r.evaluate_key == key}
        return found

    def active_jobs(self) -> int:
        """Return the number of Jobs that run or are about to, in all namespaces."""
        reserved = self.expectations.reserved_jobs()
        return self.cache.jobs.count(ACTIVE) + sum(
            job.active for at, job in reserved.items() if self.cache.jobs.get(at) is None
        )

    def active_jobs_in(self, namespace: str) -> int:
        """Return the number of Jobs in a namespace that run or may start."""
        return self.cache.jobs.count((ACTIVE, namespace))

    def serving_pods(self, persona: PersonaKey) -> tuple[Pod, ...]:
        """Return the pods of the persona's Deployment."""
        return _oldest_first(self.cache.pods.find(("serving", *persona)).values())

    def deployment(self, persona: PersonaKey) -> Deployment | None:
        """Return the persona's Deployment."""
        return next(iter(self.cache.deployments.find(persona).values()), None)

    def rolling_out(self) -> set[PersonaKey]:
        """Return the PersonaModels whose serving pods are being replaced, in all namespaces."""
        return set(self.cache.deployments.find(ROLLING_OUT))

    def rollout_waits(self) -> list[RolloutWait]:
        """Return the PersonaModels whose roll-out waits, in all namespaces, the longest first."""
        found = self.cache.personas.find(WAITS_FOR_ROLLOUT)
        return sorted((item.rollout_waiting_since, at) for at, item in found.items())

    def checksums(self, persona: PersonaKey) -> dict[tuple[str, str], str]:
        """Return the checksums of the persona's other objects by kind and name."""
        return {(item.kind, item.name): item.checksum for item in self.cache.others(persona)}

    def _complete(self, at: JobKey, job: Job) -> Job:
        pods = _oldest_first(self.cache.pods.find(("job", *at)).values())
        return self.expectations.apply_to(replace(job, pods=pods))


def _oldest_first(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    return tuple(sorted(pods, key=lambda pod: (pod.created, pod.name)))
