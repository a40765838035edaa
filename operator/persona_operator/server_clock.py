"""The API server's clock, as the `Date` headers of its answers show it.

The times in objects are the API server's and those of other controllers beside it. They are
compared with this clock: where the operator's node is ten minutes off, a Job that has just ended
would otherwise look ten minutes old.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# A header shows whole seconds, and its answer was on the way for a while.
TOLERANCE = timedelta(seconds=2)
_HALF_A_SECOND = timedelta(seconds=0.5)


def local_time() -> datetime:
    """Return the time of the operator's own node."""
    return datetime.now(UTC)


class ServerClock:
    """The time of the API server; that of the operator's node until an answer has arrived.

    Args:
        local: the clock of the operator's node.
    """

    def __init__(self, local: Callable[[], datetime]) -> None:
        self._local = local
        self._offset = timedelta(0)

    def observe(self, date: str | None) -> None:
        """Take over the `Date` header of an answer that has just arrived."""
        try:
            shown = parsedate_to_datetime(date or "")
        except ValueError:
            return
        offset = shown.astimezone(UTC) + _HALF_A_SECOND - self._local()
        # Within the tolerance the offset stays: a clock that jitters would change statuses.
        if abs(offset - self._offset) > TOLERANCE:
            self._offset = offset if abs(offset) > TOLERANCE else timedelta(0)

    def now(self) -> datetime:
        """Return the API server's time."""
        return self._local() + self._offset
