"""Noticing a watch that has stalled."""

from persona_operator.health import WatchHealth


def test_an_undelivered_change_means_a_stalled_watch() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    health.expect(("Job", "a", "b"), "5")
    now[0] = 61
    assert "Job" in (health.problem() or "")
    health.seen(("Job", "a", "b"), "5")
    assert health.problem() is None


def test_a_lagging_watch_has_not_stalled() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    health.expect(("Job", "a", "b"), "9")
    now[0] = 50
    health.seen(("Job", "a", "b"), "7")
    now[0] = 100
    assert health.problem() is None
    now[0] = 120
    assert health.problem()


def test_further_changes_do_not_hide_a_stalled_watch() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    for step in range(10):
        now[0] = step * 10.0
        health.expect(("PersonaModel", "a", "b"), str(step))
    assert health.problem()


def test_delivered_and_deleted_objects_are_not_expected() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    health.seen(("Job", "a", "b"), "9")
    health.expect(("Job", "a", "b"), "9")
    health.expect(("Job", "a", "c"), "10")
    health.seen(("Job", "a", "c"), "11", deleted=True)
    now[0] = 100
    assert health.problem() is None
    assert health.event_ages() == {"Job": 100}
