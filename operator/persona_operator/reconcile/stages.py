"""How far each stage is, and which Job to start, suspend, replace or remove."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from pydantic import JsonValue

from persona_jobs.api.status import StageStatus
from persona_jobs.pipeline.graph import PlannedStage, short_key
from persona_jobs.pipeline.results import TerminationMessage

from ..labels import RETRY_ANNOTATION, job_name
from ..profiles import max_retries
from ..resources.job import build_job, template_checksum
from .blockers import job_blocker
from .context import Context
from .failures import Failure, has_result, job_failure, result
from .observed import Job
from .plan import Create, Delete, PlanBuilder, SetSuspend
from .progress import Progress, finished_key, is_stalled
from .stage_results import evaluation_summary, parse_evaluation, summarize
from .stale_jobs import remove_stale_jobs
from .times import format_time, parse_time

# A Job's end may be observed before its pod's: the termination message is waited for that long.
RESULT_GRACE = timedelta(seconds=15)
# Interruptions beyond this number count as failures, so that every retry is bounded.
MAX_INTERRUPTIONS = 30
CAPACITY_WAKE_SECONDS = 15.0
EVALUATE = "evaluate"


def advance(context: Context, builder: PlanBuilder) -> list[Progress]:
    """Work out every stage's state; adds the actions for Jobs to `builder`."""
    progress: dict[str, Progress] = {}
    active = context.observed.active_jobs
    for stage in context.stages:
        missing = [name for name in stage.inputs if not progress[name].succeeded]
        own = _Stage(context, stage, builder, missing, active)
        progress[stage.name] = own.progress()
        active += own.started
    remove_stale_jobs(context, builder)
    return list(progress.values())


def retry_delay(failures: int, base: float, limit: float) -> float:
    """Seconds before the next attempt: doubled for each failure after the first."""
    return float(min(limit, base * 2 ** min(max(failures - 1, 0), 32)))


class _Stage:
    """Decides about one stage."""

    def __init__(
        self,
        context: Context,
        stage: PlannedStage,
        builder: PlanBuilder,
        missing: Sequence[str],
        active_jobs: int,
    ) -> None:
        self.context = context
        self.stage = stage
        self.builder = builder
        self.missing = missing
        self.active_jobs = active_jobs
        self.started = 0
        self.previous = _previous(context, stage)
        same = [
            job
            for job in context.observed.jobs
            if (job.stage, job.key, job.store) == (stage.name, stage.key, context.store.identity)
        ]
        own = [job for job in same if context.is_own(job)]
        # Jobs of another store have the same names.
        self.numbers = [
            job.attempt
            for job in context.observed.jobs
            if context.is_own(job) and (job.stage, job.key) == (stage.name, stage.key)
        ]
        self.own = sorted(own, key=lambda job: job.attempt)
        self.others = [job for job in same if not context.is_own(job) and not job.deleting]

    def progress(self) -> Progress:  # noqa: PLR0911 -- a ladder of cases
        """The stage's state, whatever has happened to it."""
        previous, latest = self.previous, self.own[-1] if self.own else None
        if previous.state == "Succeeded" and self._recorded():
            return Progress(previous)
        if latest is not None and latest.complete:
            return self._completed(latest)
        if latest is None or latest.ended:
            reused = self._reused()
            if reused is not None:
                return reused
        if any(job.deleting for job in self.own):
            return self._waiting("Replacing", "The stage's former Job is being removed.")
        if latest is not None and not latest.ended:
            return self._active(latest)
        if latest is not None and latest.failed is not None:
            return self._after_failure(latest)
        return self._next(previous)

    # What is known already

    def _recorded(self) -> bool:
        """An evaluation is only of use together with its revision."""
        if self.stage.name != EVALUATE:
            return True
        revisions = self.context.persona.status.revisions
        return any(item.evaluate_key == self.stage.key for item in revisions)

    def _reused(self) -> Progress | None:
        status = self.context.persona.status
        known = finished_key(self.stage.name, self.stage.key)
        same_store = status.store in {None, self.context.store.identity}
        if same_store and known in status.finished_keys and self._recorded():
            return Progress(self._succeeded(None, {}, reused=True))
        stored = self.context.observed.stored.get((self.stage.name, self.stage.key))
        if stored is not None and stored.state == "Present":
            progress = self._with_metrics(None, stored.metrics, reused=True)
            if progress is not None:
                return progress
        for job in self.others:
            if job.complete:
                message = result(job)
                if not has_result(job) and self._collecting(job):
                    self.builder.wake(2)
                    return self._waiting("CollectingResult", "Waiting for the pod's result.")
                progress = self._with_metrics(job, message.metrics if message else {}, reused=True)
                if progress is not None:
                    return progress
        return None

    def _with_metrics(
        self, job: Job | None, metrics: Mapping[str, JsonValue], *, reused: bool
    ) -> Progress | None:
        """Success, unless it is an evaluation whose metrics are lost."""
        if self.stage.name != EVALUATE:
            return Progress(self._succeeded(job, summarize(metrics), reused=reused))
        evaluation = parse_evaluation(metrics)
        if evaluation is None:
            return None
        status = self._succeeded(job, evaluation_summary(evaluation), reused=reused)
        return Progress(status, evaluation=evaluation)

    def _succeeded(self, job: Job | None, metrics: dict[str, str], *, reused: bool) -> StageStatus:
        own = job is not None and self.context.is_own(job)
        finished = job.finished if job and job.finished else self.context.now
        started = (job.started or job.created) if job and own else None
        return StageStatus(
            name=self.stage.name,
            key=self.stage.key,
            state="Succeeded",
            reused=reused,
            attempts=job.attempt if job and own else self.previous.attempts,
            job=job.name if job and own else None,
            started_at=format_time(started) if started else None,
            finished_at=format_time(finished),
            metrics=metrics,
        )

    # A Job that ended

    def _completed(self, job: Job) -> Progress:
        message = result(job)
        if not has_result(job) and self._collecting(job):
            return self._collect(job)
        if message is not None and message.key and message.key != self.stage.key:
            return self._after_failure(job, _version_mismatch(message))
        reused = message is not None and message.outcome == "Reused" and job.attempt == 1
        progress = self._with_metrics(job, message.metrics if message else {}, reused=reused)
        progress = progress or self._reused()
        if progress is not None:
            return progress
        lost = Failure(
            "ResultLost",
            "The evaluation's figures were lost with its pod; they are read again.",
            interrupted=True,
        )
        return self._after_failure(job, lost)

    def _after_failure(self, job: Job, failure: Failure | None = None) -> Progress:
        previous, fresh = self.previous, self.context.fresh_start
        if previous.job != job.name or previous.finished_at is None:
            reason = job.failed[0] if job.failed else ""
            lagging = reason != "DeadlineExceeded" and not has_result(job)
            # What failed before the user asked for another try needs no closer look.
            if lagging and self._collecting(job) and not fresh:
                return self._collect(job)
            had_started = previous.state == "Running"
            progress = self._failed(job, failure or job_failure(job, had_started=had_started))
            if not fresh:
                return progress
            previous = progress.status
        if fresh or self._template_changed(job):
            cleared = {"state": "Pending", "failures": 0, "retry_at": None}
            previous = previous.model_copy(update=cleared)
        return self._next(previous)

    def _failed(self, job: Job, failure: Failure) -> Progress:
        context, previous = self.context, self.previous
        retries = max_retries(
            self.stage.name, context.spec.execution, context.settings.retry.max_retries
        )
        excused = failure.interrupted and job.attempt - previous.failures <= MAX_INTERRUPTIONS
        failures = previous.failures + (0 if excused else 1)
        status = previous.model_copy(
            update={
                "job": job.name,
                "attempts": job.attempt,
                "failures": failures,
                "started_at": format_time(job.started or job.created),
                "finished_at": format_time(job.finished or context.now),
                "reason": failure.reason,
                "metrics": {},
            }
        )
        if failure.retryable and failures <= retries:
            settings = context.settings.retry
            limit = settings.max_backoff_seconds
            delay = retry_delay(failures, settings.backoff_seconds, limit)
            if failure.reason == "NotStarted":
                delay = limit
            self.builder.wake(delay)
            count = f"attempt {failures + 1} of {retries + 1}"
            return Progress(
                status.model_copy(
                    update={
                        "state": "WaitingForRetry",
                        "retry_at": format_time(context.now + timedelta(seconds=delay + 1)),
                        "message": f"{failure.message} It is tried again ({count}).",
                    }
                )
            )
        tried = f" It was tried {failures} times." if failure.retryable else ""
        again = f"Then change the spec, or set the annotation {RETRY_ANNOTATION} to a new value."
        update = {
            "state": "Failed",
            "retry_at": None,
            "message": f"{failure.message}{tried} {again}",
        }
        return Progress(status.model_copy(update=update), stalled=True)

    def _collecting(self, job: Job) -> bool:
        return self.context.now - (job.finished or self.context.now) < RESULT_GRACE

    def _collect(self, job: Job) -> Progress:
        self.builder.wake(2)
        status = self._of_job(job, "Running", "CollectingResult", "Waiting for the pod's result.")
        # Whether a container ever ran must not be forgotten while its pod's end is waited for.
        if self.previous.state != "Running":
            status = status.model_copy(update={"state": "Pending"})
        return Progress(status)

    def _template_changed(self, job: Job) -> bool:
        wanted = template_checksum(self.context.stage_job(self.stage, job.attempt))
        return bool(job.template) and job.template != wanted

    # A Job at work

    def _active(self, job: Job) -> Progress:  # noqa: PLR0911 -- a ladder of cases
        if self.context.spec.suspend:
            return self._suspend(job)
        if job.suspended:
            return self._resume(job)
        if job.untouched and self._template_changed(job):
            self.builder.act(Delete("Job", job.name))
            return self._waiting("Replacing", "The stage's Job is replaced: its settings changed.")
        pods = job.live_pods
        if pods and any(container.running for container in pods[-1].containers):
            return Progress(self._of_job(job, "Running", None, None))
        if pods and pods[-1].phase in {"Succeeded", "Failed"}:
            return Progress(self._of_job(job, "Running", None, None))
        blocker = job_blocker(job, self.context.observed.warnings)
        if blocker is None:
            return Progress(
                self._of_job(job, "Pending", "Starting", "Waiting for the stage's pod to start.")
            )
        status = self._of_job(job, "Pending", blocker.reason, blocker.message)
        return Progress(status, stalled=is_stalled(blocker.since, self.context, self.builder))

    def _suspend(self, job: Job) -> Progress:
        if job.queue:
            # Kueue would let a suspended Job go on; without the Job its quota is free.
            self.builder.act(Delete("Job", job.name))
        elif not job.suspended:
            self.builder.act(SetSuspend(job.name, suspend=True))
        message = "The PersonaModel is suspended (spec.suspend)."
        return Progress(self._of_job(job, "Suspended", "Suspended", message))

    def _resume(self, job: Job) -> Progress:
        if job.queue:
            message = f"The Job waits in the queue {job.queue}."
            return Progress(self._of_job(job, "Suspended", "Queued", message))
        shared = self._shared()
        if shared is not None:
            return shared
        self.builder.act(SetSuspend(job.name, suspend=False))
        return Progress(self._of_job(job, "Pending", "Resuming", "The stage's Job goes on."))

    def _of_job(self, job: Job, state: str, reason: str | None, message: str | None) -> StageStatus:
        update = {
            "state": state,
            "reason": reason,
            "message": message,
            "job": job.name,
            "attempts": max(job.attempt, self.previous.attempts),
            "failures": 0 if self.context.fresh_start else self.previous.failures,
            "started_at": format_time(job.started or job.created),
            "finished_at": None,
            "retry_at": None,
        }
        return self.previous.model_copy(update=update)

    # No Job at work

    def _next(self, previous: StageStatus) -> Progress:  # noqa: PLR0911 -- a ladder of cases
        self.previous = previous
        context = self.context
        if context.fresh_start and previous.state in {"Failed", "WaitingForRetry"}:
            self.previous = previous = previous.model_copy(
                update={"state": "Pending", "failures": 0, "retry_at": None}
            )
        if previous.state == "Failed":
            return Progress(previous, stalled=True)
        if context.spec.suspend and not self.missing:
            message = "The PersonaModel is suspended (spec.suspend)."
            return self._waiting("Suspended", message, state="Suspended")
        if self.missing:
            return self._waiting("WaitingForInput", f"Waits for stage {self.missing[0]}.")
        shared = self._shared()
        if shared is not None:
            return shared
        # Before the store is asked: a store that is away must not cut the pause short.
        if previous.state == "WaitingForRetry" and previous.retry_at is not None:
            left = (parse_time(previous.retry_at) - context.now).total_seconds()
            if left > 0:
                self.builder.wake(left)
                return Progress(previous)
        stored = context.observed.stored.get((self.stage.name, self.stage.key))
        if stored is not None and stored.state == "Asking":
            self.builder.wake(2)
            return self._waiting("CheckingStore", "Asking the store for a result of this stage.")
        limit = context.settings.max_parallel_stages
        if limit is not None and self.active_jobs >= limit:
            self.builder.wake(CAPACITY_WAKE_SECONDS)
            return self._waiting("WaitingForCapacity", f"All {limit} stage Jobs are at work.")
        return self._start()

    def _shared(self) -> Progress | None:
        """Another PersonaModel's Job at work on the same result is waited for."""
        for job in self.others:
            if job.active:
                who = f"{job.namespace}/{job.persona}"
                return self._waiting(
                    "WaitingForSharedStage", f"PersonaModel {who} is making the same result."
                )
        return None

    def _start(self) -> Progress:
        attempt = 1 + max([self.previous.attempts, *self.numbers])
        owner, observed = self.context.persona.owner, self.context.observed
        name = job_name(owner.name, self.stage.name, self.stage.key, attempt)
        if observed.problem is not None and name in observed.refused_jobs:
            return self._waiting(observed.problem.reason, observed.problem.message)
        self.builder.act(Create(build_job(self.context.stage_job(self.stage, attempt))))
        self.started = 1
        update = {
            "state": "Pending",
            "reason": "Starting",
            "message": "Waiting for the stage's pod to start.",
            "job": name,
            "attempts": attempt,
            "started_at": format_time(self.context.now),
            "finished_at": None,
            "retry_at": None,
        }
        return Progress(self.previous.model_copy(update=update))

    def _waiting(self, reason: str, message: str, *, state: str = "Pending") -> Progress:
        update = {"state": state, "reason": reason, "message": message, "retry_at": None}
        return Progress(self.previous.model_copy(update=update))


def _previous(context: Context, stage: PlannedStage) -> StageStatus:
    status = context.persona.status
    if status.store in {None, context.store.identity}:
        for item in status.stages:
            if item.name == stage.name and item.key == stage.key:
                return item
    return StageStatus(name=stage.name, key=stage.key, state="Pending")


def _version_mismatch(message: TerminationMessage) -> Failure:
    return Failure(
        "VersionMismatch",
        f"The jobs image computes another content key ({short_key(message.key)}…) than the "
        "operator. Use images of the same release for both.",
        retryable=False,
    )
