"""Jobs that are no longer needed."""

from persona_jobs.pipeline.pins import RESOLVE

from .context import Context
from .plan import Delete, PlanBuilder
from .stage_situation import is_recorded


def delete_stale_jobs(context: Context, builder: PlanBuilder) -> None:
    """Delete own Jobs whose result the status shows, and those of former keys and attempts.

    While a stage isn't finished, the Jobs of its last two attempts stay: a person may want to read
    the log of the one that failed. A Job that only a sidecar keeps running is deleted too, once
    the status shows how it ended.
    """
    ended = {item.job for item in context.persona.status.stages if item.finished_at is not None}
    planned = {(stage.name, stage.key) for stage in context.stages}
    own = [job for job in context.observed.jobs if context.is_own(job)]
    if context.lookup is not None:
        planned.add((context.lookup.name, context.lookup.key))
    if context.pending_lookup is not None:  # Which stages are planned isn't known yet.
        own = [job for job in own if job.stage == RESOLVE]
    newest: dict[tuple[str, str], int] = {}
    for job in own:
        at = (job.stage, job.key)
        newest[at] = max(newest.get(at, 0), job.attempt)
    removed = {item.name for item in builder.actions if isinstance(item, Delete)}
    for job in own:
        at = (job.stage, job.key)
        current = at in planned and job.store == context.store.identity
        superseded = job.attempt < newest[at] - (1 if job.ended else 0)
        # What the status will show is not enough: writing it may fail.
        finished = job.ended and is_recorded(context, *at)
        lingering = job.lingering and job.name in ended
        if job.deleting or job.name in removed:
            continue
        if finished or lingering or superseded or not current:
            builder.act(Delete("Job", job.name))
        elif job.complete:
            builder.wake(1)
