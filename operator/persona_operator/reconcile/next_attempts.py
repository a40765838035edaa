"""A stage without a Job: what it waits for, or its next attempt."""

from dataclasses import replace

from ..labels import job_name
from ..resources.job import build_job
from .plan import Create
from .policies import decide
from .progress import EVENTS_WAKE_SECONDS, Progress
from .stage_situation import SUSPENDED_MESSAGE, StageSituation
from .times import format_time, parse_time

# The operator wakes those that get a place; this is for a place that it doesn't see.
CAPACITY_WAKE_SECONDS = 120.0


def next_attempt(situation: StageSituation) -> Progress:
    """Start the stage, or return what it waits for."""
    previous = situation.previous
    if situation.fresh_start and previous.state in {"Failed", "WaitingForRetry"}:
        cleared = {"state": "Pending", "failures": 0, "retry_at": None}
        situation = replace(situation, previous=previous.model_copy(update=cleared))
    policies = (
        given_up,  # All attempts failed.
        suspended,  # spec.suspend.
        input_missing,  # A stage before it hasn't succeeded.
        StageSituation.shared_job,  # Another PersonaModel computes the same result.
        retry_later,  # The back-off isn't over; an unreachable store must not shorten it.
        store_lookup,  # The store may hold the result.
        capacity_exhausted,  # The administrator limits the number of parallel Jobs.
        start,  # Nothing stands in the way.
    )
    return decide(policies, situation)


def given_up(situation: StageSituation) -> Progress | None:
    """Keep a failure until the spec or the retry annotation changes."""
    failed = situation.previous.state == "Failed"
    return Progress(situation.previous, stalled=True) if failed else None


def suspended(situation: StageSituation) -> Progress | None:
    """Start nothing while the PersonaModel is suspended."""
    if not situation.context.spec.suspend or situation.unfinished_inputs:
        return None
    return situation.waiting("Suspended", SUSPENDED_MESSAGE, state="Suspended")


def input_missing(situation: StageSituation) -> Progress | None:
    """Wait for the stages whose results this one reads."""
    if not situation.unfinished_inputs:
        return None
    return situation.waiting(
        "WaitingForInput", f"Waiting for stage {situation.unfinished_inputs[0]}."
    )


def retry_later(situation: StageSituation) -> Progress | None:
    """Wait until the back-off is over."""
    previous = situation.previous
    if previous.state != "WaitingForRetry" or previous.retry_at is None:
        return None
    left = (parse_time(previous.retry_at) - situation.context.now).total_seconds()
    if left <= 0:
        return None
    situation.builder.wake(left)
    return Progress(previous)


def store_lookup(situation: StageSituation) -> Progress | None:
    """Wait for the lookup of this stage's result in the store."""
    stored = situation.context.observed.stored.get((situation.stage.name, situation.stage.key))
    if stored is None or stored.state != "Pending":
        return None
    situation.builder.wake(2)
    return situation.waiting("CheckingStore", "Looking for this stage's result in the store.")


def capacity_exhausted(situation: StageSituation) -> Progress | None:
    """Wait while as many Jobs are active as the administrator allows."""
    context, builder = situation.context, situation.builder
    limit = context.settings.max_parallel_stages
    created = sum(isinstance(action, Create) for action in builder.actions)
    if limit is None or context.observed.active_jobs + created < limit:
        return None
    builder.wake(CAPACITY_WAKE_SECONDS)
    return situation.waiting(
        "WaitingForCapacity", f"The limit of {limit} parallel stage Jobs is reached."
    )


def start(situation: StageSituation) -> Progress:
    """Create the Job of the next attempt."""
    context, stage = situation.context, situation.stage
    attempt = 1 + max([situation.previous.attempts, *situation.used_attempts])
    name = job_name(context.persona.owner.name, stage.name, stage.key, attempt)
    problem = context.observed.problem
    if problem is not None and name in context.observed.refused_jobs:
        return situation.waiting(problem.reason, problem.message)
    situation.builder.act(Create(build_job(context.stage_job(stage, attempt))))
    situation.builder.wake(EVENTS_WAKE_SECONDS)
    update = {
        "state": "Pending",
        "reason": "Starting",
        "message": "Waiting for the stage's pod to start.",
        "job": name,
        "attempts": attempt,
        "requested": situation.requested,
        "started_at": format_time(context.now),
        "finished_at": None,
        "retry_at": None,
    }
    return Progress(situation.previous.model_copy(update=update))
