"""Whose serving pods are replaced next."""

from persona_jobs.api.status import PersonaModelStatus
from persona_operator.reconcile import Plan
from persona_operator.rollout_queue import FORGET_SECONDS, START_SECONDS, RolloutQueue

A, B, C = ("stories", "a"), ("stories", "b"), ("tales", "c")
STATUS = PersonaModelStatus()
WAITS, STARTS = Plan((), STATUS, rollout="Waits"), Plan((), STATUS, rollout="Starts")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_whoever_asked_first_is_first() -> None:
    queue = RolloutQueue(Clock(), list)
    for persona in (A, B, C, A):
        queue.record(persona, WAITS)
    assert [queue.ahead(persona, {("x", "y")}) for persona in (A, B, C)] == [1, 2, 3]


def test_a_start_counts_before_a_watch_shows_it_and_once() -> None:
    clock = Clock()
    queue = RolloutQueue(clock, list)
    queue.record(A, WAITS)
    queue.record(A, STARTS)
    assert queue.ahead(B, set()) == queue.ahead(B, {A}) == 1
    assert queue.ahead(A, {A}) == 0
    clock.now = START_SECONDS
    assert queue.ahead(B, set()) == 0


def test_one_that_no_longer_waits_holds_up_nobody() -> None:
    clock = Clock()
    queue = RolloutQueue(clock, list)
    queue.record(A, WAITS)
    queue.record(B, WAITS)
    queue.record(A, Plan((), STATUS))
    assert queue.ahead(C, set()) == 1
    clock.now = FORGET_SECONDS
    assert queue.ahead(C, set()) == 0


def test_a_new_process_continues_in_the_order_of_before() -> None:
    clock = Clock()
    queue = RolloutQueue(clock, lambda: [B, C, A])
    # The first to be reconciled after the start is not the first in the queue.
    assert queue.ahead(A, set()) == 2
    queue.record(A, WAITS)
    assert [queue.ahead(persona, set()) for persona in (B, C, A)] == [0, 1, 2]
    queue.record(B, STARTS)
    assert [queue.ahead(persona, set()) for persona in (C, A)] == [1, 2]
    # C is not reconciled any more, so it holds up nobody.
    clock.now = FORGET_SECONDS
    queue.record(A, WAITS)
    assert queue.ahead(A, set()) == 0
