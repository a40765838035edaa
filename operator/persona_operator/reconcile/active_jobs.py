"""A stage whose newest Job runs, waits or is suspended."""

from .blockers import job_blocker
from .observed import Job
from .plan import Delete, SetSuspend
from .policies import decide
from .progress import EVENTS_WAKE_SECONDS, Progress, is_stalled
from .stage_situation import SUSPENDED_MESSAGE, StageSituation


def active_job(situation: StageSituation) -> Progress | None:
    """Return the state of a stage whose newest Job hasn't ended."""
    job = situation.latest
    if job is None or job.ended:
        return None
    policies = (
        recorded_end,  # Its stage ended before the Job did, and the status says how.
        suspend,  # spec.suspend asks for it.
        await_queue,  # Kueue decides when a queued Job starts.
        await_resumption,  # A person or another controller suspended it.
        resume,  # The operator suspended it, and spec.suspend is off again.
        yield_to_running,  # Another PersonaModel's Job was faster.
        replace_untouched,  # Its settings changed before any container ran.
        running,  # Its container runs or has just ended.
        starting,  # Nothing keeps its pod from starting.
        blocked,  # Something keeps its pod from starting.
    )
    return decide(policies, situation, job)


def recorded_end(situation: StageSituation, job: Job) -> Progress | None:
    """Keep how the stage ended until the Job has ended as well: it counts once."""
    previous = situation.previous
    if previous.job != job.name or previous.finished_at is None:
        return None
    return Progress(previous, stalled=previous.state == "Failed")


def suspend(situation: StageSituation, job: Job) -> Progress | None:
    """Suspend the Job; a queued one is deleted, as Kueue would resume it."""
    if not situation.context.spec.suspend:
        return None
    if job.queue:
        situation.builder.act(Delete("Job", job.name))
    elif not job.suspended:
        situation.builder.act(SetSuspend(job.name, suspend=True))
    return Progress(situation.of_job(job, "Suspended", "Suspended", SUSPENDED_MESSAGE))


def await_queue(situation: StageSituation, job: Job) -> Progress | None:
    """Wait for Kueue to admit the Job."""
    if not job.suspended or not job.queue:
        return None
    message = f"The Job waits in the queue {job.queue}."
    return Progress(situation.of_job(job, "Suspended", "Queued", message))


def await_resumption(situation: StageSituation, job: Job) -> Progress | None:
    """Leave a Job alone that the operator didn't suspend."""
    if not job.suspended or job.suspended_by_operator:
        return None
    message = (
        f"Job {job.name} is suspended, and not by this operator. Whoever suspended it resumes it "
        "(spec.suspend of the Job)."
    )
    return Progress(situation.of_job(job, "Suspended", "JobSuspended", message))


def resume(situation: StageSituation, job: Job) -> Progress | None:
    """Resume the Job, unless another PersonaModel computes the same result meanwhile."""
    if not job.suspended:
        return None
    shared = situation.shared_job()
    if shared is not None:
        return shared
    situation.builder.act(SetSuspend(job.name, suspend=False))
    message = "The stage's Job is being resumed."
    return Progress(situation.of_job(job, "Pending", "Resuming", message))


def yield_to_running(situation: StageSituation, job: Job) -> Progress | None:
    """Delete a Job that hasn't started once another one computes the same result."""
    if not job.untouched or not any(other.running and other.active for other in situation.others):
        return None
    situation.builder.act(Delete("Job", job.name))
    return situation.shared_job()


def replace_untouched(situation: StageSituation, job: Job) -> Progress | None:
    """Replace a Job whose settings changed; no work is lost."""
    if not job.untouched or not situation.template_changed(job):
        return None
    situation.builder.act(Delete("Job", job.name))
    message = "The stage's Job is being replaced because its settings changed."
    return situation.waiting("Replacing", message)


def running(situation: StageSituation, job: Job) -> Progress | None:
    """Report a running container, or one whose end the Job controller hasn't recorded yet."""
    if not job.live_pods:
        return None
    pod = job.live_pods[-1]
    runs = any(container.running for container in pod.containers)
    if not runs and pod.phase not in {"Succeeded", "Failed"}:
        return None
    return Progress(situation.of_job(job, "Running", None, None))


def starting(situation: StageSituation, job: Job) -> Progress | None:
    """Report a pod that nothing keeps from starting."""
    if job_blocker(job, situation.context.observed.warnings) is not None:
        return None
    situation.builder.wake(EVENTS_WAKE_SECONDS)
    message = "Waiting for the stage's pod to start."
    return Progress(situation.of_job(job, "Pending", "Starting", message))


def blocked(situation: StageSituation, job: Job) -> Progress | None:
    """Report what keeps the pod from starting."""
    context = situation.context
    blocker = job_blocker(job, context.observed.warnings)
    if blocker is None:
        return None
    message = blocker.message
    if any(other.active for other in situation.others):
        message += " Another PersonaModel that needs the same result computes it meanwhile."
    status = situation.of_job(job, "Pending", blocker.reason, message)
    return Progress(status, stalled=is_stalled(blocker, context, situation.builder))
