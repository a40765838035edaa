"""The objects that serve a revision, and what the status says of them."""

import pytest

from persona_operator.reconcile import Apply, Delete, Problem
from persona_operator.reconcile.reconciler import reconcile
from support.fake_cluster import Raw, success_message
from support.gated_persona import deployment, gated_world, messages, served
from support.operator_world import NAMESPACE, World, persona_document, settings


@pytest.fixture
def world() -> World:
    return gated_world()


def test_available_follows_the_traffic_and_ready_the_spec(world: World) -> None:
    world.run(until="mask", messages=messages(80))
    assert world.condition("Available").status == "False"
    world.run(messages=messages(80))
    assert world.condition("Available").status == world.condition("Ready").status == "True"
    good = served(world)
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run(until="mask", messages=messages(40))
    assert (world.condition("Available").status, world.condition().status) == ("True", "Unknown")
    world.run(messages=messages(40))
    assert (world.condition("Available").status, world.condition().status) == ("True", "False")
    assert world.condition("Available").message == f"Revision {good} takes traffic."


def test_a_new_model_serves_once_its_pods_are_ready(world: World) -> None:
    world.run(messages=messages(80))
    first = served(world)
    world.edit("captain", pruning={"sparsityPercent": 50})
    for _ in range(20):
        world.step()
        for job in world.cluster.open_jobs():
            stage = job["metadata"]["labels"]["persona-pruner.io/stage"]
            world.cluster.finish(job, 0, success_message(stage))
    assert deployment(world)["metadata"]["labels"]["persona-pruner.io/revision"] != first
    assert served(world) == first
    assert (world.condition().status, world.condition().reason) == ("Unknown", "RollingOut")
    world.cluster.roll_out(NAMESPACE, "captain")
    world.step()
    assert served(world) == world.persona().status.revision
    assert ("Normal", "RevisionServed") in world.events


def test_serving_pods_that_do_not_become_ready_are_reported(world: World) -> None:
    world.run(messages=messages(80))

    def stuck(document: Raw) -> None:
        document["status"] = {
            "observedGeneration": document["metadata"]["generation"],
            "replicas": 1,
            "updatedReplicas": 1,
            "conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            ],
        }

    world.cluster.update("Deployment", NAMESPACE, "captain", stuck)
    world.step()
    assert (world.condition().status, world.condition().reason) == ("False", "RolloutStuck")


def test_disabled_serving_deletes_all_its_objects(world: World) -> None:
    world.edit("captain", serving={"replicas": 2})
    world.run(messages=messages(80))
    assert world.cluster.find("PodDisruptionBudget")
    world.edit("captain", serving={"mode": "None"})
    world.run()
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        assert world.cluster.find(kind) == []
    assert (world.condition().status, world.condition().reason) == ("True", "Evaluated")
    assert world.persona().status.url is None


def test_zero_replicas_are_no_failure(world: World) -> None:
    world.edit("captain", serving={"replicas": 0})
    world.run(messages=messages(80))
    assert (world.condition().status, world.condition().reason) == ("True", "ScaledToZero")


def test_the_status_serves_the_scale_subresource(world: World) -> None:
    world.edit("captain", serving={"replicas": 2})
    world.run(messages=messages(80))
    serving = world.persona().status.serving
    assert (serving.replicas, serving.ready_replicas) == (2, 2)
    assert serving.selector == (
        "app.kubernetes.io/component=serving,persona-pruner.io/persona=captain"
    )


def test_a_disruption_budget_exists_only_above_one_replica(world: World) -> None:
    world.run(messages=messages(80))
    assert world.cluster.find("PodDisruptionBudget") == []
    world.edit("captain", serving={"replicas": 2})
    world.run()
    assert len(world.cluster.find("PodDisruptionBudget")) == 1
    world.edit("captain", serving={"replicas": 1})
    plan = world.step()
    assert Delete("PodDisruptionBudget", "captain") in plan.actions


def test_an_autoscaler_decides_the_number_of_replicas(world: World) -> None:
    world.edit("captain", serving={"autoscaling": {"maxReplicas": 4}})
    world.run(messages=messages(80))
    assert deployment(world)["spec"]["replicas"] == 1
    assert world.cluster.find("HorizontalPodAutoscaler")[0]["spec"]["maxReplicas"] == 4
    world.edit("captain", serving={"replicas": 1})
    world.run()
    assert world.cluster.find("HorizontalPodAutoscaler") == []
    assert deployment(world)["spec"]["replicas"] == 1


@pytest.mark.parametrize(("gpus", "surge"), [(0, (1, 0)), (1, (0, 1))])
def test_an_old_pod_ends_before_its_successor_starts_where_pods_use_gpus(
    gpus: int, surge: tuple[int, int]
) -> None:
    world = World(settings(profiles={"serving": {"gpus": gpus}}))
    world.add(persona_document())
    world.run()
    rolling = deployment(world)["spec"]["strategy"]["rollingUpdate"]
    assert (rolling["maxSurge"], rolling["maxUnavailable"]) == surge


def test_a_deleted_or_changed_object_is_applied_again(world: World) -> None:
    world.run(messages=messages(80))
    world.cluster.delete("Service", NAMESPACE, "captain")
    kinds = [item.manifest["kind"] for item in world.step().actions if isinstance(item, Apply)]
    assert kinds == ["Service"]
    assert world.plan().actions == ()
    world.resync = True
    kinds = [item.manifest["kind"] for item in world.plan().actions if isinstance(item, Apply)]
    assert kinds == ["Service", "Deployment"]


def test_a_change_that_the_api_server_refused_is_reported(world: World) -> None:
    world.run(messages=messages(80))
    from dataclasses import replace

    observed = replace(world.observe("captain"), problem=Problem("Forbidden", "may not"))
    plan = reconcile(world.persona(), observed, world.settings, world.cluster.now)
    ready = next(item for item in plan.status.conditions if item.type == "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "Forbidden", "may not")


def applied_replicas(world: World) -> list[int | None]:
    return [
        action.manifest["spec"].get("replicas")
        for action in world.plan().actions
        if isinstance(action, Apply) and action.manifest["kind"] == "Deployment"
    ]


def test_an_autoscaler_takes_over_the_live_replicas(world: World) -> None:
    scaling = {"minReplicas": 2, "maxReplicas": 20}
    world.edit("captain", serving={"replicas": 10})
    world.run(messages=messages(80))
    world.edit("captain", serving={"autoscaling": scaling})
    assert applied_replicas(world) == [10]
    world.run(messages=messages(80))
    assert deployment(world)["spec"]["replicas"] == 10

    def scale(document: Raw) -> None:
        document["spec"]["replicas"] = 7

    world.cluster.update("Deployment", NAMESPACE, "captain", scale)
    assert world.plan().actions == ()  # the autoscaler's number is no difference
    world.resync = True
    assert applied_replicas(world) == [7]
    world.resync = False
    # What another autoscaler could not do: 0 pods switch off a HorizontalPodAutoscaler.
    world.edit("captain", serving={"replicas": 0})
    world.run(messages=messages(80))
    world.edit("captain", serving={"autoscaling": scaling})
    assert applied_replicas(world) == [2]
    world.edit("captain", serving={"replicas": 3})
    assert applied_replicas(world) == [3]


def test_a_new_deployment_begins_with_the_autoscalers_smallest_number(world: World) -> None:
    world.edit("captain", serving={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}})
    world.run(messages=messages(80))
    assert deployment(world)["spec"]["replicas"] == 2
