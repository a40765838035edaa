"""What decides the state of one stage, and the status entries that are built from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from pydantic import JsonValue

from persona_jobs.api.status import StageStatus
from persona_jobs.pipeline.graph import PlannedStage
from persona_jobs.pipeline.pins import RESOLVE

from ..resources.job import template_checksum
from .blockers import job_blocker
from .context import Context
from .fixes import attempt_hash
from .observed import Job
from .plan import PlanBuilder
from .progress import Progress
from .stage_results import evaluation_summary, found_sources, parse_evaluation, summarize
from .times import format_time

# A Job's end may be observed before its pod's: the termination message may arrive this much later.
RESULT_GRACE = timedelta(seconds=15)
# Another PersonaModel's Job that hasn't started is waited for this long.
SHARED_START = timedelta(minutes=5)
EVALUATE = "evaluate"
SUSPENDED_MESSAGE = "The PersonaModel is suspended (spec.suspend)."


@dataclass(frozen=True)
class StageSituation:
    """One stage, its Jobs, and what the status shows of it.

    Attributes:
        context: the reconciliation.
        stage: the planned stage.
        builder: collects the actions.
        unfinished_inputs: stages whose results it needs and that haven't succeeded.
        previous: its entry in the status so far.
        own: this PersonaModel's Jobs for its key in the current store, oldest attempt first.
        others: other PersonaModels' Jobs for the same key in the same store.
        used_attempts: attempt numbers of own Jobs in any store: their names are taken.
        lost: whether its result was finished and is missing from the store.
    """

    context: Context
    stage: PlannedStage
    builder: PlanBuilder
    unfinished_inputs: tuple[str, ...]
    previous: StageStatus
    own: tuple[Job, ...]
    others: tuple[Job, ...]
    used_attempts: tuple[int, ...]
    lost: bool = False

    @classmethod
    def observe(
        cls,
        context: Context,
        stage: PlannedStage,
        builder: PlanBuilder,
        unfinished_inputs: tuple[str, ...],
        *,
        lost_since: datetime | None = None,
    ) -> "StageSituation":
        """Collect what is known of a stage; Jobs whose result was lost later don't count."""
        wanted = (stage.name, stage.key)
        jobs = [job for job in context.observed.jobs if (job.stage, job.key) == wanted]
        mine = [job for job in jobs if context.is_own(job)]
        same_store = [job for job in jobs if job.store == context.store.identity]
        previous = _previous(context, stage)
        if lost_since is not None:
            same_store = [job for job in same_store if not _ended_before(job, lost_since)]
            if previous.lost_at is None:
                previous = StageStatus(
                    name=stage.name,
                    key=stage.key,
                    state="Pending",
                    attempts=previous.attempts,
                    lost_at=format_time(lost_since),
                )
        own = [job for job in same_store if context.is_own(job)]
        return cls(
            context=context,
            stage=stage,
            builder=builder,
            unfinished_inputs=unfinished_inputs,
            previous=previous,
            own=tuple(sorted(own, key=lambda job: job.attempt)),
            others=tuple(job for job in same_store if not context.is_own(job) and not job.deleting),
            used_attempts=tuple(job.attempt for job in mine),
            lost=lost_since is not None,
        )

    @property
    def latest(self) -> Job | None:
        """Return the newest own Job."""
        return self.own[-1] if self.own else None

    def is_complete(self) -> bool:
        """Return whether a recorded success is of use: an evaluation isn't without its revision."""
        if self.stage.name == RESOLVE:
            return False  # What was found is missing, else it would not be looked up.
        return _has_revision(self.context, self.stage.name, self.stage.key)

    @cached_property
    def requested(self) -> str:
        """Return a hash of what an attempt that starts now depends on."""
        return attempt_hash(self.context, self.stage)

    @property
    def fresh_start(self) -> bool:
        """Return whether a failed stage is tried again: something that it depends on changed."""
        known = self.previous.requested
        return known is not None and known != self.requested

    def template_changed(self, job: Job) -> bool:
        """Return whether a Job created now would have another pod template."""
        wanted = template_checksum(self.context.stage_job(self.stage, job.attempt))
        return bool(job.template) and job.template != wanted

    def result_may_follow(self, job: Job) -> bool:
        """Return whether an ended Job is so recent that its pod's end may not be observed yet."""
        return self.context.now - (job.finished or self.context.now) < RESULT_GRACE

    def waiting(self, reason: str, message: str, *, state: str = "Pending") -> Progress:
        """Return the progress of a stage that waits for something."""
        update = {"state": state, "reason": reason, "message": message, "retry_at": None}
        return Progress(self.previous.model_copy(update=update))

    def collecting_result(self, job: Job) -> Progress:
        """Return the progress of a stage whose termination message is awaited."""
        self.builder.wake(2)
        status = self.of_job(job, "Running", "CollectingResult", "Waiting for the pod's result.")
        return Progress(status)

    def of_job(self, job: Job, state: str, reason: str | None, message: str | None) -> StageStatus:
        """Return the status entry of a stage whose Job runs or waits."""
        update = {
            "state": state,
            "reason": reason,
            "message": message,
            "job": job.name,
            "attempts": max(job.attempt, self.previous.attempts),
            "failures": 0 if self.fresh_start else self.previous.failures,
            "requested": self.previous.requested or self.requested,
            "started_at": format_time(job.started or job.created),
            "finished_at": None,
            "retry_at": None,
        }
        return self.previous.model_copy(update=update)

    def success(
        self, job: Job | None, results: Mapping[str, JsonValue], *, reused: bool
    ) -> Progress | None:
        """Return success, None where an evaluation's metrics or a lookup's answer are lost."""
        if self.stage.name == RESOLVE:
            found = found_sources(results)
            if not found.keys() >= self.stage.parameters.keys():
                return None
            return Progress(self.succeeded(job, {}, reused=False), found=found)
        if self.stage.name != EVALUATE:
            return Progress(self.succeeded(job, summarize(results), reused=reused))
        evaluation = parse_evaluation(results)
        if evaluation is None:
            return None
        status = self.succeeded(job, evaluation_summary(evaluation), reused=reused)
        return Progress(status, evaluation=evaluation)

    def succeeded(self, job: Job | None, metrics: dict[str, str], *, reused: bool) -> StageStatus:
        """Return the status entry of a stage that has succeeded."""
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

    def shared_job(self) -> Progress | None:
        """Wait for another PersonaModel's Job that computes the same result.

        It is waited for while it runs, or while it is so young that it may start yet. A Job that
        is stuck holds up nobody else: the next PersonaModel runs its own.
        """
        for job in self.others:
            if not job.active:
                continue
            if job.running:
                return self._awaits(job)
            left = (job.created + SHARED_START - self.context.now).total_seconds()
            blocker = job_blocker(job, {})
            if left > 0 and (blocker is None or blocker.since is not None):
                self.builder.wake(left)
                return self._awaits(job)
        return None

    def _awaits(self, job: Job) -> Progress:
        """Return the progress of a stage that waits for `job`; names stay in their namespace."""
        whose = "A PersonaModel of another namespace"
        if job.namespace == self.context.persona.owner.namespace:
            whose = f"PersonaModel {job.persona}"
        return self.waiting("WaitingForSharedStage", f"{whose} is computing the same result.")


def _ended_before(job: Job, moment: datetime) -> bool:
    return job.finished is not None and job.finished <= moment and job.created < moment


def is_recorded(context: Context, stage: str, key: str) -> bool:
    """Return whether the written status shows the result of a stage or of a lookup."""
    found = _recorded(context, stage, key)
    return found is not None and found.state == "Succeeded" and _has_revision(context, stage, key)


def _has_revision(context: Context, stage: str, key: str) -> bool:
    """Return whether the figures of an evaluation are in the status; True for other stages."""
    revisions = context.persona.status.revisions
    return stage != EVALUATE or any(item.evaluate_key == key for item in revisions)


def _recorded(context: Context, stage: str, key: str) -> StageStatus | None:
    status = context.persona.status
    if not context.status_is_of_store:
        return None
    return next((item for item in status.entries if (item.name, item.key) == (stage, key)), None)


def _previous(context: Context, stage: PlannedStage) -> StageStatus:
    unknown = StageStatus(name=stage.name, key=stage.key, state="Pending")
    return _recorded(context, stage.name, stage.key) or unknown
