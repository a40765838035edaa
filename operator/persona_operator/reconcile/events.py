"""Kubernetes Events: one per transition of the status."""

from persona_jobs.api.status import PersonaModelStatus, RevisionStatus, StageStatus

from .plan import Event
from .times import parse_time

MAX_EVENT_MESSAGE = 1000
# Reasons for waiting that a person wants to know; stages report all others themselves.
_REPORTED = {
    "RollingOut",
    "WaitingForRollout",
    "WaitingForResources",
    "WaitingForQuota",
    "Unschedulable",
    "JobSuspended",
}


def transition_events(old: PersonaModelStatus, new: PersonaModelStatus) -> tuple[Event, ...]:
    """Return an Event for each transition from `old` to `new`."""
    events = [event for stage in new.entries for event in _stage(_find(old, stage), stage)]
    events += [event for item in new.revisions for event in _gate(old, item)]
    events += _ready(old, new)
    was = old.serving.revision if old.serving else None
    now = new.serving.revision if new.serving else None
    if now is not None and now != was:
        head = f"Revision {now} takes traffic"
        events.append(
            Event("Normal", "RevisionServed", f"{head} instead of {was}." if was else f"{head}.")
        )
    return tuple(
        Event(event.type, event.reason, event.message[:MAX_EVENT_MESSAGE]) for event in events
    )


def _find(status: PersonaModelStatus, stage: StageStatus) -> StageStatus | None:
    known = status.entries
    return next((item for item in known if (item.name, item.key) == (stage.name, stage.key)), None)


def _stage(old: StageStatus | None, new: StageStatus) -> list[Event]:
    state = old.state if old else "Pending"
    events = []
    if new.state in {"Pending", "Running"} and new.attempts > (old.attempts if old else 0):
        text = f"Job {new.job} starts stage {new.name}" + (
            f" (attempt {new.attempts})." if new.attempts > 1 else "."
        )
        events.append(Event("Normal", "StageStarted", text))
    if new.state == state:
        return events
    if new.state == "Succeeded":
        if new.reused:
            text = f"The result of stage {new.name} was already in the store."
            events.append(Event("Normal", "StageReused", text))
        else:
            text = f"Stage {new.name} finished{_duration(new)}."
            events.append(Event("Normal", "StageSucceeded", text))
    elif new.state == "Failed":
        events.append(Event("Warning", "StageFailed", f"Stage {new.name}: {new.message}"))
    elif new.state == "WaitingForRetry":
        events.append(Event("Warning", "StageRetry", f"Stage {new.name}: {new.message}"))
    return events


def _duration(stage: StageStatus) -> str:
    """Return how long a stage took, as part of a sentence."""
    if stage.started_at is None or stage.finished_at is None:
        return ""
    seconds = (parse_time(stage.finished_at) - parse_time(stage.started_at)).total_seconds()
    return f" in {max(seconds, 0):.0f} s"


def _gate(old: PersonaModelStatus, new: RevisionStatus) -> list[Event]:
    """Report a revision that passes its gate; the condition Ready reports one that doesn't."""
    before = next((item for item in old.revisions if item.id == new.id), None)
    if new.gate != "Passed" or (before is not None and before.gate == "Passed"):
        return []
    return [Event("Normal", "GatePassed", f"Revision {new.id} passed its gate: {new.message}.")]


def _ready(old: PersonaModelStatus, new: PersonaModelStatus) -> list[Event]:
    before = next((item for item in old.conditions if item.type == "Ready"), None)
    after = next(item for item in new.conditions if item.type == "Ready")
    if before is not None and (before.status, before.reason) == (after.status, after.reason):
        return []
    if after.status == "True":
        return [Event("Normal", "Ready", after.message)]
    if after.status == "Unknown" and after.reason in _REPORTED:
        return [Event("Normal", after.reason, after.message)]
    stage_failed = any(stage.state == "Failed" for stage in new.entries)
    if after.status == "False" and not stage_failed:
        return [Event("Warning", after.reason, after.message)]
    return []
