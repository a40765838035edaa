"""Whether a PersonaModel is ready, and if not, why: one reason and one sentence."""

from dataclasses import dataclass
from typing import Literal

from persona_jobs.pipeline.pins import RESOLVE

from .context import Context
from .policies import decide
from .progress import Progress
from .revisions import Revisions
from .serving import Serving

ReadyStatus = Literal["True", "False", "Unknown"]
PAUSED = "Suspended"


@dataclass(frozen=True)
class Readiness:
    """The state of a PersonaModel as a whole.

    Attributes:
        ready: status of the `Ready` condition.
        reason: one CamelCase word.
        message: one sentence for people.
        stalled: whether a person must fix something.
        working: whether work is under way.
    """

    ready: ReadyStatus
    reason: str
    message: str
    stalled: bool = False
    working: bool = False


@dataclass(frozen=True)
class Situation:
    """What the policies decide on: the outcome of each part of a reconciliation."""

    context: Context
    progress: list[Progress]
    revisions: Revisions
    serving: Serving


def failed(reason: str, message: str) -> Readiness:
    """Return the readiness of something that a person must fix."""
    return Readiness("False", reason, message, stalled=True)


def working(reason: str, message: str) -> Readiness:
    """Return the readiness of something that continues by itself."""
    return Readiness("Unknown", reason, message, working=True)


def readiness(situation: Situation) -> Readiness:
    """Return the most important thing to report about a PersonaModel."""
    policies = (
        change_refused,  # The API server refused a change.
        stage_stalled,  # A stage needs a person.
        pinned_revision_missing,  # spec.serving.revision names none of the revisions.
        stage_unfinished,  # A stage waits or runs.
        stages_unplanned,  # The sources have just been looked up.
        gate_failed,  # The finished model missed its gate.
        serving_disabled,  # Everything is finished, and nothing is to be served.
        serving_state,  # Everything is finished: the roll-out decides.
    )
    return decide(policies, situation)


def change_refused(situation: Situation) -> Readiness | None:
    """Report what the API server refused just now."""
    problem = situation.context.observed.problem
    return failed(problem.reason, problem.message) if problem else None


def stage_stalled(situation: Situation) -> Readiness | None:
    """Report the first stage that can't continue before a person fixes something."""
    status = next((item.status for item in situation.progress if item.stalled), None)
    if status is None:
        return None
    return failed(status.reason or "StageFailed", f"Stage {status.name}: {status.message}")


def pinned_revision_missing(situation: Situation) -> Readiness | None:
    """Report a pinned revision that isn't in the store."""
    revisions = situation.revisions
    if not revisions.pin_missing:
        return None
    known = ", ".join(revisions.usable) or "none yet"
    return failed(
        "RevisionNotFound",
        f"spec.serving.revision {situation.context.spec.serving.revision} is none of the revisions "
        f"in the store ({known}). Name one of them, or remove the field.",
    )


def stage_unfinished(situation: Situation) -> Readiness | None:
    """Report the first stage that hasn't succeeded."""
    status = next((item.status for item in situation.progress if not item.succeeded), None)
    if status is None:
        return None
    stage, message = status.name.capitalize(), f"Stage {status.name}: {status.message}"
    if status.state == "Suspended" and status.reason == PAUSED:
        return Readiness("Unknown", PAUSED, message)
    if status.state == "Running":
        return working(stage, f"Stage {status.name} is running.")
    reason = stage if status.reason == "Starting" else status.reason or stage
    return working(reason, message)


def stages_unplanned(situation: Situation) -> Readiness | None:
    """Report that the plan follows the lookup of the sources."""
    if situation.context.pending_lookup is None:
        return None
    return working(RESOLVE.capitalize(), "The sources are looked up; the stages are planned next.")


def gate_failed(situation: Situation) -> Readiness | None:
    """Report a finished model that missed its gate, unless a revision is pinned on purpose."""
    context, revisions, serving = situation.context, situation.revisions, situation.serving
    current = revisions.current
    if current is None or current.gate != "Failed" or context.spec.serving.revision is not None:
        return None
    message = f"Revision {current.id} takes no traffic: {current.message}."
    target = revisions.target
    if target is not None and context.spec.serving.mode != "None":
        score = target.metric("personaScore").value or "not measured"
        message += f" Revision {target.id} keeps serving (persona score {score})."
        if not serving.served:
            message += f" {serving.message}"
    return failed(
        "GateFailed",
        f"{message} Lower spec.pruning.sparsityPercent, or change spec.evaluation.gate.",
    )


def serving_disabled(situation: Situation) -> Readiness | None:
    """Report the finished revision where serving is switched off."""
    if situation.context.spec.serving.mode != "None":
        return None
    current = situation.revisions.current
    message = f"Revision {current.id} is finished." if current else "All stages are finished."
    return Readiness("True", "Evaluated", message)


def serving_state(situation: Situation) -> Readiness:
    """Report the state of the inference Deployment."""
    serving = situation.serving
    if serving.served:
        return Readiness("True", serving.reason, serving.message)
    report = failed if serving.stalled else working
    return report(serving.reason, serving.message)
