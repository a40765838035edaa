"""Results that were finished and are no longer in the store.

The store itself says so, where the operator may read it, or a stage that could not read its input.
A lost result is made again by its own stage.
"""

from datetime import datetime, timedelta

from persona_jobs.api.status import StageStatus

from .context import Context
from .failures import missing_input
from .progress import finished_key
from .times import parse_time

StageKey = tuple[str, str]
# An answer of the store may be older than the end of the Job that made the result.
STORE_MARGIN = timedelta(minutes=1)


def lost_results(context: Context) -> dict[StageKey, datetime]:
    """Return the results of the plan that are lost, and since when."""
    recorded: dict[StageKey, StageStatus] = {}
    if context.status_is_of_store:
        recorded = {(item.name, item.key): item for item in context.persona.status.stages}
    reported = _reported(context)
    lost: dict[StageKey, datetime] = {}
    for stage in context.stages:
        at = (stage.name, stage.key)
        known = recorded.get(at, StageStatus(name=stage.name))
        if known.lost_at is not None:
            lost[at] = parse_time(known.lost_at)
            continue
        finished = parse_time(known.finished_at)
        if at in reported and reported[at] > finished:
            lost[at] = reported[at]
        elif _absent(context, at, known):
            lost[at] = context.now
    return lost


def _reported(context: Context) -> dict[StageKey, datetime]:
    """Return the results that a stage could not read, and when it ended."""
    inputs = {(stage.name, stage.key): stage.inputs for stage in context.stages}
    reported: dict[StageKey, datetime] = {}
    for job in context.observed.jobs:
        reads = inputs.get((job.stage, job.key))
        if reads is None or job.failed is None or not context.is_own(job):
            continue
        missing = missing_input(job, reads)
        if missing is not None:
            ended = job.finished or context.now
            reported[missing] = max(ended, reported.get(missing, ended))
    return reported


def _absent(context: Context, at: StageKey, known: StageStatus) -> bool:
    """Return whether the store has no result that counts as finished."""
    stored = context.observed.stored.get(at)
    if stored is None or stored.state != "Absent":
        return False
    if known.state == "Succeeded":
        looked_up = stored.looked_up or context.now
        return looked_up > parse_time(known.finished_at) + STORE_MARGIN
    keys = context.persona.status.finished_keys if context.status_is_of_store else []
    return finished_key(*at) in keys
