"""The conditions Ready, Reconciling and Stalled (Kubernetes API conventions, kstatus).

`Ready` is Unknown while work goes on and False only when a person must mend something; `Stalled` is
True exactly then, `Reconciling` exactly while work goes on.
"""

from dataclasses import dataclass
from typing import Literal

from persona_jobs.api.status import Condition, ConditionType

from .context import Context
from .progress import Progress
from .revisions import Revisions
from .serving import Serving
from .times import format_time

ConditionStatus = Literal["True", "False", "Unknown"]
PAUSED = "Suspended"


@dataclass(frozen=True)
class Verdict:
    """The state of the whole in one reason and one sentence."""

    ready: ConditionStatus
    reason: str
    message: str
    stalled: bool = False
    working: bool = False


def failed(reason: str, message: str) -> Verdict:
    """Something that a person must mend."""
    return Verdict("False", reason, message, stalled=True)


def working(reason: str, message: str) -> Verdict:
    """Something that goes on by itself."""
    return Verdict("Unknown", reason, message, working=True)


def judge(  # noqa: PLR0911 -- a ladder of cases
    context: Context, progress: list[Progress], revisions: Revisions, serving: Serving
) -> Verdict:
    """The most important thing there is to say about a PersonaModel."""
    problem = context.observed.problem
    if problem is not None:
        return failed(problem.reason, problem.message)
    stuck = next((item for item in progress if item.stalled), None)
    if stuck is not None:
        status = stuck.status
        return failed(status.reason or "StageFailed", f"Stage {status.name}: {status.message}")
    if revisions.pin_missing:
        known = ", ".join(revisions.usable) or "none yet"
        return failed(
            "RevisionNotFound",
            f"spec.serving.revision {context.spec.serving.revision} is none of the revisions in "
            f"the store ({known}). Name one of them, or remove the field.",
        )
    unfinished = next((item for item in progress if not item.succeeded), None)
    if unfinished is not None:
        return _stage(unfinished)
    gate = _gate(context, revisions, serving)
    if gate is not None:
        return gate
    if not context.spec.serving.enabled:
        return Verdict("True", "Evaluated", _evaluated(revisions))
    if serving.served:
        return Verdict("True", serving.reason, serving.message)
    if serving.stalled:
        return failed(serving.reason, serving.message)
    return working(serving.reason, serving.message)


def conditions(
    previous: list[Condition], verdict: Verdict, *, generation: int, now: str
) -> list[Condition]:
    """The three conditions; a time changes only when its condition's status does."""
    stalled: ConditionStatus = "True" if verdict.stalled else "False"
    reconciling: ConditionStatus = "True" if verdict.working else "False"
    wanted: tuple[tuple[ConditionType, ConditionStatus, str, str], ...] = (
        ("Ready", verdict.ready, verdict.reason, verdict.message),
        (
            "Reconciling",
            reconciling,
            verdict.reason if verdict.working else "Idle",
            verdict.message if verdict.working else "",
        ),
        (
            "Stalled",
            stalled,
            verdict.reason if verdict.stalled else "NotStalled",
            verdict.message if verdict.stalled else "",
        ),
    )
    result = []
    for kind, status, reason, message in wanted:
        old = next((item for item in previous if item.type == kind), None)
        since = old.last_transition_time if old and old.status == status else now
        result.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=generation,
                last_transition_time=since,
                reason=reason,
                message=message,
            )
        )
    return result


def context_conditions(context: Context, verdict: Verdict) -> list[Condition]:
    """The three conditions of a reconciliation."""
    return conditions(
        context.persona.status.conditions,
        verdict,
        generation=context.persona.generation,
        now=format_time(context.now),
    )


def _stage(item: Progress) -> Verdict:
    status = item.status
    if status.state == "Suspended" and status.reason == PAUSED:
        return Verdict("Unknown", PAUSED, f"Stage {status.name}: {status.message}")
    if status.state == "Running":
        return working(status.name.capitalize(), f"Stage {status.name} is running.")
    if status.reason == "Starting":
        return working(status.name.capitalize(), f"Stage {status.name}: {status.message}")
    return working(
        status.reason or status.name.capitalize(), f"Stage {status.name}: {status.message}"
    )


def _gate(context: Context, revisions: Revisions, serving: Serving) -> Verdict | None:
    """A finished model that missed its gate, unless another one is pinned on purpose."""
    current = revisions.current
    if current is None or current.gate != "Failed" or context.spec.serving.revision is not None:
        return None
    message = f"Revision {current.id} takes no traffic: {current.message}."
    target = revisions.target
    if target is not None and context.spec.serving.enabled:
        message += f" Revision {target.id} keeps serving (persona score {target.persona_score})."
        if not serving.served:
            message += f" {serving.message}"
    return failed(
        "GateFailed",
        f"{message} Lower spec.pruning.sparsityPercent, or change spec.evaluation.gate.",
    )


def _evaluated(revisions: Revisions) -> str:
    current = revisions.current
    return f"Revision {current.id} is finished." if current else "All stages are finished."
