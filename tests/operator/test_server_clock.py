"""The API server's clock."""

from datetime import timedelta
from email.utils import format_datetime

import pytest

from persona_operator.server_clock import ServerClock
from support.operator_world import START


@pytest.mark.parametrize("minutes", [-10, 0, 10])
def test_the_clock_follows_the_api_server(minutes: int) -> None:
    clock = ServerClock(lambda: START)
    ahead = timedelta(minutes=minutes)
    clock.observe(format_datetime(START + ahead, usegmt=True))
    assert abs(clock.now() - (START + ahead)) < timedelta(seconds=1)


def test_the_clock_is_steady_and_returns_to_the_nodes_own() -> None:
    clock = ServerClock(lambda: START)
    for seconds in (1, -1, 0):
        clock.observe(format_datetime(START + timedelta(seconds=seconds), usegmt=True))
        assert clock.now() == START
    clock.observe(format_datetime(START + timedelta(minutes=5), usegmt=True))
    assert clock.now() > START + timedelta(minutes=4)
    for text in ("nonsense", "", None):
        clock.observe(text)
    assert clock.now() > START + timedelta(minutes=4)
    clock.observe(format_datetime(START, usegmt=True))
    assert clock.now() == START
