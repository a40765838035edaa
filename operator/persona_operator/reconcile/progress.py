"""How far each stage is, and which stages are known to be finished."""

from collections.abc import Mapping
from dataclasses import dataclass

from persona_jobs.api.stages import STAGE_NAMES, stage
from persona_jobs.api.status import RevisionStatus, StageStatus
from persona_jobs.pipeline.pins import RESOLVE
from persona_jobs.pipeline.results import EvaluationMetrics

from .blockers import Blocker
from .context import Context
from .plan import PlanBuilder

MAX_FINISHED_KEYS = 100
# Why a pod isn't made or doesn't start is often in an Event only, and Events aren't watched.
EVENTS_WAKE_SECONDS = 5.0


@dataclass(frozen=True)
class Progress:
    """State of one stage.

    Attributes:
        status: its entry in the PersonaModel's status.
        stalled: whether it can't continue before a person fixes something.
        evaluation: the evaluation's metrics, when this stage has just reported them.
        revision: the evaluated model, where another PersonaModel's status describes it.
        found: commit or digest by name of the sources that were just looked up.
    """

    status: StageStatus
    stalled: bool = False
    evaluation: EvaluationMetrics | None = None
    revision: RevisionStatus | None = None
    found: Mapping[str, str] | None = None

    @property
    def succeeded(self) -> bool:
        """Return whether its result is in the store."""
        return self.status.state == "Succeeded"


def awaited(progress: Progress) -> bool:
    """Return whether a revision takes traffic only once this stage has succeeded."""
    name = progress.status.name
    return name not in STAGE_NAMES or stage(name).serving_waits


def finished_key(name: str, key: str) -> str:
    """Return an entry of `status.finishedKeys`."""
    return f"{name}/{key}"


def finished_keys(context: Context, progress: list[Progress]) -> list[str]:
    """Return the stages known to be finished in this store, newest first, at most 100."""
    keys = [finished_key(item.status.name, item.status.key) for item in progress if item.succeeded]
    keys += [
        finished_key(job.stage, job.key)
        for job in context.observed.jobs
        if context.is_own(job) and job.complete and job.store == context.store.identity
    ]
    if context.status_is_of_store:
        keys += context.persona.status.finished_keys
    # The answer of a lookup is in the status, not in the store. A lost result isn't finished.
    lost = {
        finished_key(item.status.name, item.status.key)
        for item in progress
        if item.status.lost_at is not None
    }
    stored = [key for key in keys if not key.startswith(f"{RESOLVE}/") and key not in lost]
    return list(dict.fromkeys(stored))[:MAX_FINISHED_KEYS]


def is_stalled(blocker: Blocker, context: Context, builder: PlanBuilder) -> bool:
    """Return whether a blocker needs a person: at once, after the grace period, or never.

    Args:
        blocker: what keeps a pod from starting.
        context: the reconciliation.
        builder: reconciles again when the grace period ends.
    """
    if blocker.passes:
        return False
    if blocker.since is None:
        return True
    age = (context.now - blocker.since).total_seconds()
    left = context.settings.blocked_grace_seconds - age
    if left > 0:
        builder.wake(left)
    return left <= 0
