"""Whose serving pods are replaced next, where the number at once is limited."""

from collections.abc import Callable, Iterable
from itertools import takewhile

from .object_cache import PersonaKey
from .reconcile import Plan

START_SECONDS = 15.0
FORGET_SECONDS = 60.0


class RolloutQueue:
    """PersonaModels that wait to replace their serving pods, first come, first served.

    A roll-out counts from the decision on, before a watch shows it. One that stops waiting without
    starting, or whose PersonaModel is gone, is forgotten after `FORGET_SECONDS`.

    Args:
        clock: returns the seconds of a steady clock.
        waited: returns those that waited before this process started, the longest first; called
            once, when the first one asks or is recorded.
    """

    def __init__(
        self, clock: Callable[[], float], waited: Callable[[], Iterable[PersonaKey]]
    ) -> None:
        self._clock = clock
        self._waited: Callable[[], Iterable[PersonaKey]] | None = waited
        self._waiting: dict[PersonaKey, float] = {}
        self._started: dict[PersonaKey, float] = {}

    def ahead(self, persona: PersonaKey, rolling_out: set[PersonaKey]) -> int:
        """Return how many others roll out now or have waited longer.

        Args:
            persona: the PersonaModel that asks.
            rolling_out: those whose pods are being replaced, as the watches show them.
        """
        self._restore()
        now = self._clock()
        self._waiting = {key: until for key, until in self._waiting.items() if until > now}
        self._started = {key: until for key, until in self._started.items() if until > now}
        longer = takewhile(lambda key: key != persona, self._waiting)
        return len({*rolling_out, *self._started, *longer} - {persona})

    def record(self, persona: PersonaKey, plan: Plan) -> None:
        """Record whether a PersonaModel waits, starts, or does neither."""
        self._restore()
        if plan.rollout == "Waits":
            self._waiting[persona] = self._clock() + FORGET_SECONDS
            return
        self._waiting.pop(persona, None)
        if plan.rollout == "Starts":
            self._started[persona] = self._clock() + START_SECONDS

    def _restore(self) -> None:
        if self._waited is not None:
            self._waiting = dict.fromkeys(self._waited(), self._clock() + FORGET_SECONDS)
            self._waited = None
