"""Whose stage gets the next Job, where the number of Jobs at once is limited."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .object_cache import PersonaKey

# One that doesn't use the place it was offered stands behind the others from then on.
OFFER_SECONDS = 15.0


@dataclass
class _Entry:
    arrived: int
    offered: float | None = None


class CapacityQueue:
    """PersonaModels that wait for a place, first come, first served within each namespace.

    Between namespaces the next place goes to the one with the fewest active Jobs, so that a
    thousand PersonaModels in one don't hold up a single one in another.

    Args:
        clock: returns the seconds of a steady clock.
        active: returns the number of active Jobs in a namespace.
    """

    def __init__(self, clock: Callable[[], float], active: Callable[[str], int]) -> None:
        self._clock = clock
        self._active = active
        self._arrivals = itertools.count()
        self._waiting: dict[PersonaKey, _Entry] = {}

    def ahead(self, persona: PersonaKey) -> int:
        """Return how many others get a place before this PersonaModel."""
        if not self._waiting:
            return 0
        newcomer = persona not in self._waiting
        if newcomer:
            self._waiting[persona] = _Entry(next(self._arrivals))
        order = self._order()
        if newcomer:
            del self._waiting[persona]
        return order.index(persona)

    def record(self, persona: PersonaKey, *, waits: bool) -> None:
        """Record whether a PersonaModel waits for a place."""
        entry = self._waiting.get(persona)
        if not waits:
            self._waiting.pop(persona, None)
        elif entry is None:
            self._waiting[persona] = _Entry(next(self._arrivals))
        else:
            entry.offered = None

    def offer(self, places: int) -> list[PersonaKey]:
        """Return those that get the free places, the first one first."""
        if places <= 0 or not self._waiting:
            return []
        chosen = self._order()[:places]
        for persona in chosen:
            entry = self._waiting[persona]
            entry.offered = self._clock() if entry.offered is None else entry.offered
        return chosen

    def _order(self) -> list[PersonaKey]:
        now = self._clock()
        late = {
            persona: entry.offered is not None and now - entry.offered > OFFER_SECONDS
            for persona, entry in self._waiting.items()
        }
        arrived = sorted(self._waiting, key=lambda key: (late[key], self._waiting[key].arrived))
        taken: Counter[str] = Counter()
        turns: dict[PersonaKey, int] = {}
        for persona in arrived:
            namespace = persona[0]
            if namespace not in taken:
                taken[namespace] = self._active(namespace)
            turns[persona] = taken[namespace]
            taken[namespace] += 1
        # Sorting is stable: who came first is first among equals.
        return sorted(arrived, key=lambda key: (late[key], turns[key]))
