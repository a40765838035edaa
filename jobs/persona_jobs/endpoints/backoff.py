"""Delays before a failed request is sent again."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter.

    Attributes:
        base: seconds before the first retry, doubled for each further one.
        longest: upper bound of the back-off itself, in seconds.
        longest_asked: upper bound of a delay from `Retry-After`, in seconds.
    """

    base: float = 1.0
    longest: float = 30.0
    longest_asked: float = 120.0

    def delay(self, attempt: int, asked: float | None = None) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (counted from 0).

        Jitter shortens the delay by up to half, so that requests don't all return at once. A delay
        that the endpoint asked for is never shortened, but lengthened by up to `base`.
        """
        jitter = random.random()  # noqa: S311 -- spreads load, guards nothing
        own = min(self.longest, self.base * 2.0 ** min(attempt, 60)) * (1 - jitter / 2)
        if asked is None:
            return own
        return max(own, min(self.longest_asked, asked) + jitter * self.base)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that `Retry-After` asks to wait (RFC 9110, section 10.2.3).

    Return None without the header, or when it is neither a number of seconds nor a date.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
