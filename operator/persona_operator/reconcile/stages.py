"""How far each stage is, and which Job to create, suspend, replace or delete."""

from .active_jobs import active_job
from .context import Context
from .ended_jobs import complete_job, existing_result, failed_job
from .next_attempts import next_attempt
from .plan import PlanBuilder
from .policies import decide
from .progress import Progress
from .stage_situation import StageSituation
from .stale_jobs import delete_stale_jobs


def reconcile_stages(context: Context, builder: PlanBuilder) -> list[Progress]:
    """Decide every stage's state, and add the actions for Jobs to `builder`."""
    progress: dict[str, Progress] = {}
    for stage in context.stages:
        unfinished = tuple(name for name in stage.inputs if not progress[name].succeeded)
        situation = StageSituation.observe(context, stage, builder, unfinished)
        progress[stage.name] = stage_progress(situation)
    delete_stale_jobs(context, builder)
    return list(progress.values())


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
    if situation.previous.state != "Succeeded" or not situation.is_recorded():
        return None
    return Progress(situation.previous)


def job_being_deleted(situation: StageSituation) -> Progress | None:
    """Wait until former Jobs are gone."""
    if not any(job.deleting for job in situation.own):
        return None
    return situation.waiting("Replacing", "The stage's former Job is being deleted.")
