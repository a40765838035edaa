"""The observed state of the cluster and of the store, as plain typed values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import JsonValue

from persona_jobs.api.status import RevisionStatus

from ..labels import (
    ATTEMPT_ANNOTATION,
    CHECKSUM_ANNOTATION,
    KEY_ANNOTATION,
    PERSONA_LABEL,
    QUEUE_LABEL,
    REVISION_LABEL,
    STAGE_LABEL,
    STORE_ANNOTATION,
    SUSPENDED_ANNOTATION,
    TEMPLATE_ANNOTATION,
)
from .times import parse_time

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class ContainerState:
    """One container of a pod.

    Attributes:
        name: its name.
        image: its image.
        running: whether it runs now.
        waiting: reason and message while it can't start.
        exit_code: exit code of its last end, None when it hasn't ended.
        ended_reason: why it ended (`OOMKilled`, `Error`, …).
        message: its termination message.
    """

    name: str
    image: str = ""
    running: bool = False
    waiting: tuple[str, str] | None = None
    exit_code: int | None = None
    ended_reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Pod:
    """A pod of a Job or of the Deployment.

    Attributes:
        name: its name.
        namespace: its namespace.
        job: name of its Job; empty for serving pods.
        revision: revision that a serving pod serves; empty for stage pods.
        created: when it was created.
        phase: `Pending`, `Running`, `Succeeded` or `Failed`.
        failure: reason and message where the kubelet ended the pod as a whole (`Evicted`,
            `DeadlineExceeded`).
        deleting: whether it is being deleted.
        unscheduled: reason, message and start of the time in which no node fits it.
        ready: whether it can take traffic.
        containers: init containers first.
    """

    name: str
    namespace: str
    created: datetime
    job: str = ""
    revision: str = ""
    phase: str = "Pending"
    failure: tuple[str, str] | None = None
    deleting: bool = False
    unscheduled: tuple[str, str, datetime] | None = None
    ready: bool = False
    containers: tuple[ContainerState, ...] = ()

    @classmethod
    def from_object(cls, document: Raw) -> "Pod":
        """Parse a pod."""
        metadata, status = document["metadata"], document.get("status") or {}
        labels = metadata.get("labels") or {}
        owners = metadata.get("ownerReferences") or []
        conditions = {item["type"]: item for item in status.get("conditions") or []}
        created = parse_time(metadata.get("creationTimestamp"))
        scheduled = conditions.get("PodScheduled", {})
        unscheduled = None
        if scheduled.get("status") == "False":
            since = parse_time(scheduled.get("lastTransitionTime"), created)
            unscheduled = (scheduled.get("reason", ""), scheduled.get("message", ""), since)
        images = {
            item["name"]: item.get("image", "")
            for kind in ("initContainers", "containers")
            for item in (document.get("spec") or {}).get(kind) or []
        }
        reason = status.get("reason")
        states = [
            _container(item, images)
            for kind in ("initContainerStatuses", "containerStatuses")
            for item in status.get(kind) or []
        ]
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            created=created,
            job=next((item["name"] for item in owners if item.get("kind") == "Job"), ""),
            revision=labels.get(REVISION_LABEL, ""),
            phase=status.get("phase", "Pending"),
            failure=(reason, status.get("message", "")) if reason else None,
            deleting=metadata.get("deletionTimestamp") is not None,
            unscheduled=unscheduled,
            ready=conditions.get("Ready", {}).get("status") == "True",
            containers=tuple(states),
        )

    @property
    def started(self) -> bool:
        """Return whether any container ever ran."""
        return any(item.running or item.exit_code is not None for item in self.containers)


def _container(status: Raw, images: Mapping[str, str]) -> ContainerState:
    state, last = status.get("state") or {}, status.get("lastState") or {}
    waiting = state.get("waiting")
    ended = state.get("terminated") or last.get("terminated") or {}
    return ContainerState(
        name=status["name"],
        image=images.get(status["name"]) or status.get("image", ""),
        running="running" in state,
        waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        exit_code=ended.get("exitCode"),
        ended_reason=ended.get("reason", ""),
        message=ended.get("message", ""),
    )


@dataclass(frozen=True)
class Job:
    """The Job of one attempt of one stage, of any PersonaModel.

    Attributes:
        name: its name.
        namespace: its namespace.
        persona: the PersonaModel it belongs to.
        owner_uid: uid of that PersonaModel.
        stage: the stage.
        key: the content key.
        store: identity of the store it writes to.
        attempt: 1 for the first.
        created: when it was created.
        template: checksum of its pod template.
        queue: its Kueue queue, empty where there is none.
        suspended: whether it is suspended.
        suspended_by_operator: whether the operator suspended it, not a person or a queue.
        deleting: whether it is being deleted.
        lingering: whether its stage has ended while a sidecar keeps its pod running.
        complete: whether it succeeded.
        failed: reason and message of its failure.
        started: when it started.
        finished: when it succeeded or failed.
        pods: its pods, oldest first.
    """

    name: str
    namespace: str
    persona: str
    owner_uid: str
    stage: str
    key: str
    store: str
    created: datetime
    attempt: int = 1
    template: str = ""
    queue: str = ""
    suspended: bool = False
    suspended_by_operator: bool = False
    deleting: bool = False
    lingering: bool = False
    complete: bool = False
    failed: tuple[str, str] | None = None
    started: datetime | None = None
    finished: datetime | None = None
    pods: tuple[Pod, ...] = ()

    @classmethod
    def from_object(cls, document: Raw, pods: Sequence[Pod] = ()) -> "Job":
        """Parse a Job."""
        metadata, status = document["metadata"], document.get("status") or {}
        labels = metadata.get("labels") or {}
        annotations = metadata.get("annotations") or {}
        owners = metadata.get("ownerReferences") or [{}]
        conditions = {
            item["type"]: item
            for item in status.get("conditions") or []
            if item.get("status") == "True"
        }
        created = parse_time(metadata.get("creationTimestamp"))
        # FailureTarget and SuccessCriteriaMet precede the end; Failed and Complete are the end.
        failed = conditions.get("Failed")
        complete = conditions.get("Complete")
        end = complete or failed
        started = status.get("startTime")
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            persona=labels.get(PERSONA_LABEL, ""),
            owner_uid=owners[0].get("uid", ""),
            stage=labels.get(STAGE_LABEL, ""),
            key=annotations.get(KEY_ANNOTATION, ""),
            store=annotations.get(STORE_ANNOTATION, ""),
            created=created,
            attempt=_number(annotations.get(ATTEMPT_ANNOTATION)),
            template=annotations.get(TEMPLATE_ANNOTATION, ""),
            queue=labels.get(QUEUE_LABEL, ""),
            suspended=bool((document.get("spec") or {}).get("suspend")),
            suspended_by_operator=annotations.get(SUSPENDED_ANNOTATION) == "true",
            deleting=metadata.get("deletionTimestamp") is not None,
            complete=complete is not None,
            failed=(failed.get("reason", ""), failed.get("message", "")) if failed else None,
            started=parse_time(started) if started else None,
            finished=parse_time(end.get("lastTransitionTime"), created) if end else None,
            pods=tuple(sorted(pods, key=lambda pod: (pod.created, pod.name))),
        )

    @property
    def ended(self) -> bool:
        """Return whether it succeeded or failed."""
        return self.complete or self.failed is not None

    @property
    def active(self) -> bool:
        """Return whether its work runs or may start without the operator.

        One that the operator suspended isn't active; one that waits in a queue is.
        """
        return not self.ended and not (self.suspended and not self.queue)

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Return the pods that are not being deleted."""
        return tuple(pod for pod in self.pods if not pod.deleting)

    @property
    def running(self) -> bool:
        """Return whether a container runs, or has just ended without the Job's end being known."""
        return not self.ended and any(pod.started for pod in self.live_pods)

    @property
    def untouched(self) -> bool:
        """Return whether no container has run yet: replacing the Job loses no work."""
        return not self.ended and not any(pod.started for pod in self.pods)


# Reasons of the condition Progressing; a stuck or paused roll-out holds up nobody.
_ROLLING_OUT = {"NewReplicaSetCreated", "FoundNewReplicaSet", "ReplicaSetUpdated"}


@dataclass(frozen=True)
class Deployment:
    """The inference Deployment.

    Attributes:
        name: its name.
        namespace: its namespace.
        rolling_out: whether its pods are being replaced.
        revision: revision of its pod template.
        checksum: checksum of the manifest it was applied from.
        current: whether its controller has observed the newest spec.
        wanted: wanted replicas.
        replicas: existing pods.
        updated: pods of the newest template.
        ready: ready pods.
        available: available pods.
        deadline_exceeded: message when the roll-out makes no progress.
        rejected: message when no pod can be created (quota, admission).
        rejected_since: when that began.
    """

    name: str
    revision: str
    checksum: str = ""
    current: bool = True
    wanted: int = 1
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    deadline_exceeded: str = ""
    rejected: str = ""
    rejected_since: datetime | None = None
    namespace: str = ""
    rolling_out: bool = False

    @classmethod
    def from_object(cls, document: Raw) -> "Deployment":
        """Parse a Deployment."""
        metadata, status = document["metadata"], document.get("status") or {}
        spec = document.get("spec") or {}
        conditions = {item["type"]: item for item in status.get("conditions") or []}
        progress = conditions.get("Progressing", {})
        rejected = conditions.get("ReplicaFailure", {})
        stuck = progress.get("reason") == "ProgressDeadlineExceeded"
        failing = rejected.get("status") == "True"
        current = int(status.get("observedGeneration", 0)) >= int(metadata.get("generation", 0))
        return cls(
            name=metadata["name"],
            revision=(metadata.get("labels") or {}).get(REVISION_LABEL, ""),
            checksum=(metadata.get("annotations") or {}).get(CHECKSUM_ANNOTATION, ""),
            current=current,
            namespace=metadata["namespace"],
            rolling_out=not current or progress.get("reason") in _ROLLING_OUT,
            wanted=int(spec.get("replicas", 1)),
            replicas=int(status.get("replicas", 0)),
            updated=int(status.get("updatedReplicas", 0)),
            ready=int(status.get("readyReplicas", 0)),
            available=int(status.get("availableReplicas", 0)),
            deadline_exceeded=(progress.get("message") or "no progress") if stuck else "",
            rejected=(rejected.get("message") or "no pod can be created") if failing else "",
            rejected_since=parse_time(rejected.get("lastTransitionTime")) if failing else None,
        )


@dataclass(frozen=True)
class Stored:
    """What the store holds under one content key.

    Attributes:
        state: `Unknown` when the store can't be read, `Pending` while the lookup is under way.
        results: the stage results in its stage manifest, where it is present.
        looked_up: when the lookup began; None for just now.
    """

    state: Literal["Present", "Absent", "Unknown", "Pending"]
    results: Mapping[str, JsonValue] = field(default_factory=dict)
    looked_up: datetime | None = None


@dataclass(frozen=True)
class PersonaText:
    """The text that `configMapRef` names, or why it isn't found."""

    text: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Problem:
    """A change that the API server refused, as a condition reason and message."""

    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    """Everything that a reconciliation depends on beside the PersonaModel itself.

    Attributes:
        jobs: its own Jobs, and others' Jobs for the same content keys.
        active_jobs: number of active stage Jobs in all namespaces, and of others that get the next
            places before this PersonaModel.
        deployment: the inference Deployment.
        rollouts_ahead: number of other PersonaModels that roll out now or have waited longer.
        serving_pods: pods of the Deployment.
        owned: checksum annotation by (kind, name) of Services, autoscalers, budgets and ConfigMaps.
        text: the persona's text, where the spec names a ConfigMap.
        recipe: the PersonaRecipe that the spec names, where it exists.
        stored: what the store holds by (stage, key); a missing entry is unknown.
        finished_elsewhere: (stage, key) pairs that the statuses of other PersonaModels list as
            finished in the same store.
        revisions_elsewhere: evaluated models in the same store by their evaluation's key, from the
            same statuses.
        warnings: message of the newest warning Event by `Job/NAME` or `Pod/NAME`.
        problem: what the API server refused just now.
        refused_jobs: names of Jobs that it refused to create.
        resync: whether to apply all objects again, changed or not.
    """

    jobs: tuple[Job, ...] = ()
    active_jobs: int = 0
    deployment: Deployment | None = None
    rollouts_ahead: int = 0
    serving_pods: tuple[Pod, ...] = ()
    owned: Mapping[tuple[str, str], str] = field(default_factory=dict)
    text: PersonaText | None = None
    recipe: Raw | None = None
    stored: Mapping[tuple[str, str], Stored] = field(default_factory=dict)
    finished_elsewhere: frozenset[tuple[str, str]] = frozenset()
    revisions_elsewhere: Mapping[str, RevisionStatus] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    refused_jobs: frozenset[str] = frozenset()
    resync: bool = False


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdigit() else 1
