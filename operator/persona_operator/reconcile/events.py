"""Kubernetes Events: one per transition of the status."""

from persona_jobs.api.status import PersonaModelStatus, StageStatus

from .plan import Event

MAX_EVENT_MESSAGE = 1000


def transition_events(old: PersonaModelStatus, new: PersonaModelStatus) -> tuple[Event, ...]:
    """Return an Event for each transition from `old` to `new`."""
    events = [event for stage in _entries(new) for event in _stage(_find(old, stage), stage)]
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
    known = _entries(status)
    return next((item for item in known if (item.name, item.key) == (stage.name, stage.key)), None)


def _entries(status: PersonaModelStatus) -> list[StageStatus]:
    """Return the entries of all that Jobs do: the lookup of the sources, and the stages."""
    return [*([status.resolution] if status.resolution else []), *status.stages]


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
        text = "was already in the store" if new.reused else "is finished"
        reason = "StageReused" if new.reused else "StageSucceeded"
        events.append(Event("Normal", reason, f"The result of stage {new.name} {text}."))
    elif new.state == "Failed":
        events.append(Event("Warning", "StageFailed", f"Stage {new.name}: {new.message}"))
    elif new.state == "WaitingForRetry":
        events.append(Event("Warning", "StageRetry", f"Stage {new.name}: {new.message}"))
    return events


def _ready(old: PersonaModelStatus, new: PersonaModelStatus) -> list[Event]:
    before = next((item for item in old.conditions if item.type == "Ready"), None)
    after = next(item for item in new.conditions if item.type == "Ready")
    if before is not None and (before.status, before.reason) == (after.status, after.reason):
        return []
    if after.status == "True":
        return [Event("Normal", "Ready", after.message)]
    stage_failed = any(stage.state == "Failed" for stage in _entries(new))
    if after.status == "False" and not stage_failed:
        return [Event("Warning", after.reason, after.message)]
    return []
