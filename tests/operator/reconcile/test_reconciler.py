"""The plan as a whole."""

from datetime import timedelta

from support.fake_cluster import Raw, success_message
from support.operator_world import NAMESPACE, World


def test_a_changed_spec_replaces_the_config_map(world: World) -> None:
    world.run()
    first = {item["metadata"]["name"] for item in world.cluster.find("ConfigMap")}
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    second = {item["metadata"]["name"] for item in world.cluster.find("ConfigMap")}
    assert len(first) == len(second) == 1
    assert first != second


def test_a_deleted_persona_is_left_alone(world: World) -> None:
    def hold(document: Raw) -> None:
        document["metadata"]["finalizers"] = ["persona-pruner.io/artifacts"]

    world.cluster.update("PersonaModel", NAMESPACE, "captain", hold)
    world.cluster.delete("PersonaModel", NAMESPACE, "captain")
    assert world.plan().actions == ()


def test_an_invalid_status_counts_as_empty(world: World) -> None:
    def spoil(document: Raw) -> None:
        document["status"] = {"stages": "nonsense"}

    world.cluster.update("PersonaModel", NAMESPACE, "captain", spoil)
    world.step()
    assert world.stage("reference").state == "Pending"


def test_a_condition_keeps_the_time_of_its_last_transition(world: World) -> None:
    world.step()
    first = world.condition("Reconciling").last_transition_time
    world.cluster.now += timedelta(seconds=100)
    world.cluster.finish(world.job("reference"), 0, success_message("reference"))
    world.step()
    assert world.condition("Reconciling").last_transition_time == first
    assert world.condition().observed_generation == 1
