"""Jobs that are no longer needed."""

from persona_jobs.pipeline.pins import RESOLVE

from .context import Context
from .plan import Delete, PlanBuilder


def delete_stale_jobs(context: Context, builder: PlanBuilder) -> None:
    """Delete own Jobs of other keys, and all but the last two attempts of the current ones.

    A Job that only a sidecar keeps running is deleted too, once the status shows how it ended.
    """
    recorded = {item.job for item in context.persona.status.stages if item.finished_at is not None}
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
        needless = not current or superseded or (job.lingering and job.name in recorded)
        if needless and not job.deleting and job.name not in removed:
            builder.act(Delete("Job", job.name))
