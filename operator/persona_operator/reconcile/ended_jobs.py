"""A stage whose newest Job has ended, or whose result exists without any Job of its own."""

from dataclasses import replace
from datetime import timedelta

from persona_jobs.pipeline.graph import short_key
from persona_jobs.pipeline.pins import RESOLVE
from persona_jobs.pipeline.results import TerminationMessage

from ..labels import RETRY_ANNOTATION
from ..profiles import max_retries
from .failures import Failure, has_result, job_failure, result
from .next_attempts import next_attempt
from .observed import Job
from .plan import Delete
from .policies import decide, first_match
from .progress import Progress, finished_key
from .stage_situation import EVALUATE, StageSituation
from .times import format_time

# Interruptions beyond this number count as failures, so every retry is bounded.
MAX_INTERRUPTIONS = 30
EVALUATION_LOST = Failure(
    "ResultLost",
    "The evaluation's figures were lost with its pod; they are read again.",
    interrupted=True,
)
ANSWER_LOST = Failure(
    "ResultLost",
    "What the sources hold was lost with the pod; they are looked up again.",
    interrupted=True,
)


def retry_delay(failures: int, base: float, limit: float) -> float:
    """Return the seconds before the next attempt: doubled for each failure after the first."""
    return float(min(limit, base * 2 ** min(max(failures - 1, 0), 32)))


# Results that exist without a Job of this PersonaModel


def existing_result(situation: StageSituation) -> Progress | None:
    """Reuse a result where no Job of its own has started."""
    job = situation.latest
    if job is not None and not job.ended and not job.untouched:
        return None
    found = reusable_result(situation)
    if found is not None and found.succeeded and job is not None and not job.ended:
        situation.builder.act(Delete("Job", job.name))
    return found


def reusable_result(situation: StageSituation) -> Progress | None:
    """Return success where the result is known to exist."""
    policies = (
        finished_before,  # The status lists the key as finished.
        stored_result,  # The store holds it.
        others_result,  # Another PersonaModel's Job computed it.
        recorded_elsewhere,  # The status of another PersonaModel lists the key as finished.
    )
    return first_match(policies, situation)


def finished_before(situation: StageSituation) -> Progress | None:
    """Reuse a result that the status lists as finished."""
    context = situation.context
    known = finished_key(situation.stage.name, situation.stage.key)
    if not context.status_is_of_store or known not in context.persona.status.finished_keys:
        return None
    if situation.lost or not situation.is_complete():
        return None
    return Progress(situation.succeeded(None, {}, reused=True))


def stored_result(situation: StageSituation) -> Progress | None:
    """Reuse a result that the operator found in the store."""
    stored = situation.context.observed.stored.get((situation.stage.name, situation.stage.key))
    # Where a result was lost, the answer may be an old one: the stage itself looks, and reuses it.
    if stored is None or stored.state != "Present" or situation.lost:
        return None
    return situation.success(None, stored.results, reused=True)


def others_result(situation: StageSituation) -> Progress | None:
    """Reuse the result of another PersonaModel's Job.

    A Job of another namespace isn't believed, as anybody may create one there: its result counts
    once the operator finds it in the store, or when the stage's own process does.
    """
    namespace = situation.context.persona.owner.namespace
    for job in situation.others:
        if not job.complete or job.namespace != namespace:
            continue
        if not has_result(job) and situation.result_may_follow(job):
            situation.builder.wake(2)
            return situation.waiting("CollectingResult", "Waiting for the pod's result.")
        message = result(job)
        progress = situation.success(job, message.metrics if message else {}, reused=True)
        if progress is not None:
            return progress
    return None


def recorded_elsewhere(situation: StageSituation) -> Progress | None:
    """Reuse a result that another PersonaModel's status lists."""
    observed, stage = situation.context.observed, situation.stage
    stored = observed.stored.get((stage.name, stage.key))
    absent = stored is not None and stored.state == "Absent"
    if situation.lost or absent or (stage.name, stage.key) not in observed.finished_elsewhere:
        return None
    if stage.name != EVALUATE:
        return situation.success(None, {}, reused=True)
    revision = observed.revisions_elsewhere.get(stage.key)
    if revision is None:
        return None
    return Progress(situation.succeeded(None, {}, reused=True), revision=revision)


# A Job of this PersonaModel that ended


def complete_job(situation: StageSituation) -> Progress | None:
    """Return the state of a stage whose newest Job succeeded."""
    job = situation.latest
    if job is None or not job.complete:
        return None
    policies = (
        result_awaited,  # Its pod's end isn't observed yet.
        other_key,  # The jobs image computed another content key.
        own_result,  # It reported its result.
        lost_result,  # The pod of an evaluation or a lookup disappeared with its report.
    )
    return decide(policies, situation, job)


def result_awaited(situation: StageSituation, job: Job) -> Progress | None:
    """Wait a moment for the termination message."""
    if has_result(job) or not situation.result_may_follow(job):
        return None
    return situation.collecting_result(job)


def other_key(situation: StageSituation, job: Job) -> Progress | None:
    """Fail where the jobs image and the operator disagree on the content key."""
    message = result(job)
    if message is None or message.key in {"", situation.stage.key}:
        return None
    return after_failure(situation, job, _version_mismatch(message))


def own_result(situation: StageSituation, job: Job) -> Progress | None:
    """Take over what the stage reported, or what is known of the result otherwise."""
    message = result(job)
    reused = message is not None and message.outcome == "Reused" and job.attempt == 1
    success = situation.success(job, message.metrics if message else {}, reused=reused)
    return success or reusable_result(situation)


def lost_result(situation: StageSituation, job: Job) -> Progress:
    """Run it again: an evaluation finds its result in the store and reports it."""
    lost = ANSWER_LOST if situation.stage.name == RESOLVE else EVALUATION_LOST
    return after_failure(situation, job, lost)


def failed_job(situation: StageSituation) -> Progress | None:
    """Return the state of a stage whose newest Job failed."""
    job = situation.latest
    if job is None or job.failed is None:
        return None
    return after_failure(situation, job)


def after_failure(situation: StageSituation, job: Job, failure: Failure | None = None) -> Progress:
    """Record a failure once, then decide about the next attempt.

    Args:
        situation: the stage.
        job: the Job that ended.
        failure: why it failed; by default what the Job's pods show.
    """
    previous, fresh = situation.previous, situation.fresh_start
    if previous.job != job.name or previous.finished_at is None:
        # A failure from before the user asked for another attempt needs no closer look.
        if not has_result(job) and situation.result_may_follow(job) and not fresh:
            return situation.collecting_result(job)
        failure = failure or job_failure(job, situation.context.spec, situation.stage.inputs)
        progress = _record_failure(situation, job, failure)
        if not fresh:
            return progress
        previous = progress.status
    if fresh:
        cleared = {"state": "Pending", "failures": 0, "retry_at": None}
        previous = previous.model_copy(update=cleared)
    return next_attempt(replace(situation, previous=previous))


def _record_failure(situation: StageSituation, job: Job, failure: Failure) -> Progress:
    context, previous = situation.context, situation.previous
    settings = context.settings.retry
    retries = max_retries(situation.stage.name, context.spec.execution, settings.max_retries)
    excused = failure.interrupted and job.attempt - previous.failures <= MAX_INTERRUPTIONS
    failures = previous.failures + (0 if excused else 1)
    status = previous.model_copy(
        update={
            "job": job.name,
            "attempts": job.attempt,
            "requested": previous.requested or situation.requested,
            "failures": failures,
            "started_at": format_time(job.started or job.created),
            "finished_at": format_time(job.finished or context.now),
            "reason": failure.reason,
            "metrics": {},
        }
    )
    if failure.retryable and failures <= retries:
        limit = settings.max_backoff_seconds
        delay = retry_delay(failures, settings.backoff_seconds, limit)
        situation.builder.wake(delay)
        count = f"attempt {failures + 1} of {retries + 1}"
        retry_at = format_time(context.now + timedelta(seconds=delay + 1))
        message = f"{failure.message} It is tried again ({count})."
        update = {"state": "WaitingForRetry", "retry_at": retry_at, "message": message}
        return Progress(status.model_copy(update=update))
    tried = f" The stage failed {failures} times." if failure.retryable else ""
    again = f"To retry, change the spec or set the annotation {RETRY_ANNOTATION} to a new value."
    message = f"{failure.message}{tried} {again}"
    final = status.model_copy(update={"state": "Failed", "retry_at": None, "message": message})
    return Progress(final, stalled=True)


def _version_mismatch(message: TerminationMessage) -> Failure:
    return Failure(
        "VersionMismatch",
        f"The jobs image computes another content key ({short_key(message.key)}…) than the "
        "operator. Use images of the same release for both.",
        retryable=False,
    )
