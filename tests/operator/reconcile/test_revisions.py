"""Which revision is served, and which are kept."""

import pytest

from persona_operator.reconcile.revisions import MAX_REVISIONS
from support.gated_persona import GATE, gated_world, messages, served
from support.operator_world import World


@pytest.fixture
def world() -> World:
    return gated_world()


def test_the_last_good_model_keeps_serving(world: World) -> None:
    world.run(messages=messages(80))
    good = served(world)
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run(messages=messages(40))
    assert served(world) == good
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", "GateFailed")
    assert "personaScore 40" in ready.message
    assert f"Revision {good} keeps serving (persona score 80)" in ready.message
    status = world.persona().status
    assert status.url == "http://captain.stories.svc:8000"
    assert [item.gate for item in status.revisions] == ["Failed", "Passed"]
    assert status.score == "80.0 (dense 82.0)"


def test_one_field_rolls_back_and_forward_again(world: World) -> None:
    world.run(messages=messages(80))
    first = served(world)
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run(messages=messages(70))
    second = served(world)
    assert second != first
    world.edit("captain", serving={"revision": first})
    world.run()
    assert served(world) == first
    assert world.condition().status == "True"
    world.edit("captain", serving={})
    world.run()
    assert served(world) == second


def test_a_pinned_model_is_served_even_below_the_gate(world: World) -> None:
    world.run(messages=messages(40))
    world.edit("captain", serving={"revision": world.persona().status.revision})
    world.run()
    assert world.condition().status == "True"


def test_a_pin_to_an_unknown_revision_is_reported(world: World) -> None:
    world.run(messages=messages(80))
    first = served(world)
    world.edit("captain", serving={"revision": "deadbeef"})
    world.run()
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", "RevisionNotFound")
    assert f"({first})" in ready.message
    assert served(world) == first


def test_the_newest_ten_revisions_and_the_served_one_are_kept(world: World) -> None:
    world.run(messages=messages(80))
    first = served(world)
    for sparsity in range(30, 44):
        world.edit("captain", pruning={"sparsityPercent": sparsity}, serving={"revision": first})
        world.run(messages=messages(80))
    revisions = world.persona().status.revisions
    assert len(revisions) == MAX_REVISIONS
    assert revisions[0].sparsity_percent == 43
    assert first in [item.id for item in revisions]
    assert served(world) == first


def test_another_evaluation_of_the_same_model_replaces_its_metrics(world: World) -> None:
    world.run(messages=messages(80))
    world.edit("captain", evaluation={**GATE, "maxQueries": 70})
    world.run(messages=messages(75))
    status = world.persona().status
    assert [item.metric("personaScore").value for item in status.revisions] == ["75"]
    assert world.condition().status == "True"
