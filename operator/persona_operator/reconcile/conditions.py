"""The conditions Ready, Reconciling and Stalled (Kubernetes API conventions, kstatus).

`Ready` is Unknown while work is under way and False only when a person must fix something;
`Stalled` is True exactly then, `Reconciling` exactly while work is under way.
"""

from datetime import datetime

from persona_jobs.api.status import Condition, ConditionType

from .persona import Persona
from .readiness import Readiness, ReadyStatus
from .times import format_time


def conditions(persona: Persona, readiness: Readiness, now: datetime) -> list[Condition]:
    """Return the three conditions; a time changes only when its condition's status does."""
    wanted: tuple[tuple[ConditionType, ReadyStatus, str, str], ...] = (
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


def _flag(holds: bool, readiness: Readiness, *, otherwise: str) -> tuple[ReadyStatus, str, str]:
    if holds:
        return "True", readiness.reason, readiness.message
    return "False", otherwise, ""
