"""Liveness: whether the watches still deliver every change that is known to have happened.

A watch whose connection died silently delivers nothing, just like the watch of a quiet cluster. The
operator therefore records which changes must arrive: its own writes, and those that a LIST shows.
A change that hasn't arrived in time proves a stalled watch. While the API server is unreachable no
change is expected, because a restart would not help.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

Object = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass
class _Expectation:
    version: str
    since: float


class WatchHealth:
    """The changes that the watches still have to deliver.

    Args:
        deadline: seconds within which a change must arrive.
        clock: returns the seconds of a steady clock.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadline = deadline
        self._clock = clock
        self._expected: dict[Object, _Expectation] = {}
        self._seen: dict[Object, str] = {}
        self._last_event: dict[str, float] = {}

    def expect(self, target: Object, version: str) -> None:
        """Expect a watch to deliver this resource version of an object, or a newer one."""
        if _reached(self._seen.get(target), version):
            return
        pending = self._expected.get(target)
        if pending is None:
            self._expected[target] = _Expectation(version, self._clock())
        else:
            # The time of the oldest change counts: later ones must not hide a stalled watch.
            pending.version = version

    def seen(self, target: Object, version: str, *, deleted: bool = False) -> None:
        """Record that a watch delivered an object."""
        self._last_event[target[0]] = self._clock()
        if deleted:
            self.forget(target)
            return
        self._seen[target] = version
        pending = self._expected.get(target)
        if pending is None:
            return
        if _reached(version, pending.version):
            del self._expected[target]
        else:
            pending.since = self._clock()

    def forget(self, target: Object) -> None:
        """Expect nothing more of a deleted object."""
        self._seen.pop(target, None)
        self._expected.pop(target, None)

    def event_ages(self) -> dict[str, float]:
        """Return the seconds since the last event by kind."""
        now = self._clock()
        return {kind: now - moment for kind, moment in self._last_event.items()}

    def problem(self) -> str | None:
        """Return which change hasn't arrived in time, None where there is no such change."""
        now = self._clock()
        for (kind, namespace, name), pending in self._expected.items():
            age = now - pending.since
            if age > self._deadline:
                return (
                    f"The watch of {kind} has stalled: version {pending.version} of "
                    f"{namespace}/{name} hasn't arrived for {age:.0f} s."
                )
        return None


def _reached(version: str | None, wanted: str) -> bool:
    if version is None:
        return False
    if version.isdigit() and wanted.isdigit():
        return int(version) >= int(wanted)
    return True
