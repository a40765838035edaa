"""How far each stage is, and which Job to create, suspend, replace or delete."""

from persona_jobs.pipeline.graph import PlannedStage
from persona_jobs.pipeline.pins import RESOLVE

from .active_jobs import active_job
from .context import Context
from .ended_jobs import complete_job, existing_result, failed_job
from .lost_results import lost_results
from .next_attempts import next_attempt
from .plan import Delete, PlanBuilder, SetSuspend
from .policies import decide
from .progress import Progress
from .stage_situation import StageSituation
from .stale_jobs import delete_stale_jobs


def reconcile_stages(context: Context, builder: PlanBuilder) -> list[Progress]:
    """Decide every stage's state, and add the actions for Jobs to `builder`."""
    if context.pending_lookup is not None:
        return [_look_up_sources(context, context.pending_lookup, builder)]
    progress: dict[str, Progress] = {}
    lost = lost_results(context)
    for stage in context.stages:
        unfinished = tuple(name for name in stage.inputs if not progress[name].succeeded)
        since = lost.get((stage.name, stage.key))
        situation = StageSituation.observe(context, stage, builder, unfinished, lost_since=since)
        progress[stage.name] = stage_progress(situation)
    delete_stale_jobs(context, builder)
    return list(progress.values())


def _look_up_sources(context: Context, lookup: PlannedStage, builder: PlanBuilder) -> Progress:
    """Decide the state of the lookup that the plan waits for, which is run like a stage.

    Jobs of a former plan continue: they may belong to the next plan too.
    """
    situation = StageSituation.observe(context, lookup, builder, ())
    progress = stage_progress(situation)
    for job in context.observed.jobs:
        waits = job.ended or job.suspended or job.deleting or job.stage == RESOLVE
        if context.is_own(job) and context.spec.suspend and not waits:
            action = Delete("Job", job.name) if job.queue else SetSuspend(job.name, suspend=True)
            builder.act(action)
    delete_stale_jobs(context, builder)
    if progress.succeeded:
        builder.wake(1)
    return progress


def stage_progress(situation: StageSituation) -> Progress:
    """Return the state of one stage."""
    policies = (
        recorded_success,  # The status shows its success already.
        complete_job,  # Its newest Job succeeded.
        existing_result,  # No Job of its own runs, and the result exists.
        job_being_deleted,  # A former Job must be gone before the next one is created.
        active_job,  # Its newest Job runs or waits.
        failed_job,  # Its newest Job failed.
        next_attempt,  # There is no Job.
    )
    return decide(policies, situation)


def recorded_success(situation: StageSituation) -> Progress | None:
    """Keep a success that the status shows: a missing Job doesn't mean unfinished work."""
    if situation.lost or situation.previous.state != "Succeeded" or not situation.is_complete():
        return None
    return Progress(situation.previous)


def job_being_deleted(situation: StageSituation) -> Progress | None:
    """Wait until former Jobs are gone."""
    if not any(job.deleting for job in situation.own):
        return None
    if situation.previous.state in {"Failed", "WaitingForRetry"}:
        return next_attempt(situation)
    return situation.waiting("Replacing", "The stage's former Job is being deleted.")
