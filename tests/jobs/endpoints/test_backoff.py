from datetime import UTC, datetime

import pytest

from persona_jobs.endpoints.backoff import Backoff, retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def test_delays_double_and_stay_below_the_longest() -> None:
    backoff = Backoff(base=1.0, longest=10.0)
    for attempt in range(12):
        expected = min(10.0, 2.0**attempt)
        for _ in range(20):
            assert expected / 2 <= backoff.delay(attempt) <= expected
    assert backoff.delay(100_000) <= 10.0


def test_delays_are_spread() -> None:
    assert len({Backoff().delay(3) for _ in range(10)}) > 1


def test_delay_that_the_endpoint_asks_for_is_kept_and_bounded() -> None:
    backoff = Backoff(base=1.0, longest=30.0, longest_asked=120.0)
    assert 7.0 <= backoff.delay(0, asked=7.0) <= 8.0
    assert 120.0 <= backoff.delay(0, asked=1e9) <= 121.0
    # An endpoint that asks for no delay still gets the back-off.
    assert backoff.delay(3, asked=0.0) >= 4.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("Thu, 01 Jan 2026 12:00:20 GMT", 20.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds


def test_no_header() -> None:
    assert retry_after({}, NOW) is None
