"""The conditions of a PersonaModel (Kubernetes API conventions, kstatus).

`Available` says whether a revision takes traffic, whatever else is under way. `Ready` says whether
the spec is reached: it is Unknown while work is under way and False only when a person must fix
something; `Stalled` is True exactly then, `Reconciling` exactly while work is under way.
"""

from datetime import datetime

from persona_jobs.api.status import Condition, ConditionType

from .observed import Deployment
from .persona import Persona
from .readiness import Readiness, ReadyStatus
from .times import format_time


def conditions(
    persona: Persona,
    readiness: Readiness,
    revision: str | None,
    deployment: Deployment | None,
    now: datetime,
) -> list[Condition]:
    """Return the conditions; a time changes only when its condition's status does.

    Args:
        persona: the PersonaModel, with the status written last.
        readiness: the state of the PersonaModel as a whole.
        revision: the revision that took traffic last, if any.
        deployment: the inference Deployment.
        now: the time.
    """
    wanted: tuple[tuple[ConditionType, ReadyStatus, str, str], ...] = (
        ("Available", *_available(revision, deployment)),
        ("Ready", readiness.ready, readiness.reason, readiness.message),
        ("Reconciling", *_flag(readiness.working, readiness, otherwise="Idle")),
        ("Stalled", *_flag(readiness.stalled, readiness, otherwise="NotStalled")),
    )
    previous = {item.type: item for item in persona.status.conditions}
    result = []
    for kind, status, reason, message in wanted:
        old = previous.get(kind)
        since = old.last_transition_time if old and old.status == status else format_time(now)
        result.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=persona.generation,
                last_transition_time=since,
                reason=reason,
                message=message,
            )
        )
    return result


def _available(revision: str | None, deployment: Deployment | None) -> tuple[ReadyStatus, str, str]:
    if revision is None or deployment is None:
        return "False", "NotServed", "No revision takes traffic."
    if deployment.available < 1:
        return "False", "NoReplicas", f"No serving pod of revision {revision} is available."
    return "True", "Serving", f"Revision {revision} takes traffic."


def _flag(holds: bool, readiness: Readiness, *, otherwise: str) -> tuple[ReadyStatus, str, str]:
    if holds:
        return "True", readiness.reason, readiness.message
    return "False", otherwise, ""
