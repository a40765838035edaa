"""When unfinished work is saved."""

import pytest

from persona_jobs.stages import control


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(control.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(("cost", "interval"), [(0.1, 120), (60, 1140)])
def test_saving_takes_at_most_a_twentieth_of_the_time(monkeypatch, cost, interval):
    clock = Clock(monkeypatch)
    timer = control.SaveTimer()
    clock.now += 119
    assert not timer.due
    clock.now += 1
    assert timer.due
    with timer.saving():
        clock.now += cost
    clock.now += interval - 1
    assert not timer.due
    clock.now += 1
    assert timer.due
    assert cost / (cost + interval) <= control.SAVE_SHARE
