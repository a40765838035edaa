"""How far a stage is, and which stages are known to be finished."""

from dataclasses import dataclass
from datetime import datetime

from persona_jobs.api.status import StageStatus
from persona_jobs.pipeline.results import EvaluationMetrics

from .context import Context
from .plan import PlanBuilder

MAX_FINISHED_KEYS = 100


@dataclass(frozen=True)
class Progress:
    """State of one stage.

    Attributes:
        status: what the PersonaModel's status says of it.
        stalled: whether it can't go on before a person mends something.
        evaluation: the evaluation's metrics, when this stage has just brought them.
    """

    status: StageStatus
    stalled: bool = False
    evaluation: EvaluationMetrics | None = None

    @property
    def succeeded(self) -> bool:
        """Whether its result is in the store."""
        return self.status.state == "Succeeded"


def finished_key(stage: str, key: str) -> str:
    """Entry of `status.finishedKeys`."""
    return f"{stage}/{key}"


def finished_keys(context: Context, progress: list[Progress]) -> list[str]:
    """All stages known to be finished in this store, newest first, bounded."""
    keys = [finished_key(item.status.name, item.status.key) for item in progress if item.succeeded]
    keys += [
        finished_key(job.stage, job.key)
        for job in context.observed.jobs
        if context.is_own(job) and job.complete and job.store == context.store.identity
    ]
    if context.persona.status.store in {None, context.store.identity}:
        keys += context.persona.status.finished_keys
    return list(dict.fromkeys(keys))[:MAX_FINISHED_KEYS]


def is_stalled(since: datetime | None, context: Context, builder: PlanBuilder) -> bool:
    """Whether a blocker needs a person: at once, or once it has lasted for the grace period."""
    if since is None:
        return True
    age = (context.now - since).total_seconds()
    left = context.settings.blocked_grace_seconds - age
    if left > 0:
        builder.wake(left)
    return left <= 0
