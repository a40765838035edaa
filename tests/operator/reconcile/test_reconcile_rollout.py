"""Revisions, the gate, and what is served."""

from typing import Any

import pytest

from persona_jobs.api import Gate
from persona_jobs.api.status import RevisionStatus
from persona_operator.reconcile import Apply, Delete, Problem
from persona_operator.reconcile.gate import check
from persona_operator.reconcile.reconciler import reconcile
from persona_operator.reconcile.revisions import MAX_REVISIONS
from support.fake_cluster import Raw, evaluation_message, success_message
from support.operator_world import NAMESPACE, World, persona_document, settings


def gate(**bound: Any) -> Raw:
    return {"thresholds": [{"name": "voice", "metric": "personaScore", **bound}]}


def loss(**bound: Any) -> Raw:
    return {"thresholds": [{"name": "general", "metric": "genericLoss", **bound}]}


GATE = {"gate": gate(min=60)}


def messages(score: float) -> Any:
    return lambda stage: (
        evaluation_message(score=score) if stage == "evaluate" else success_message(stage)
    )


@pytest.fixture
def world() -> World:
    made = World()
    made.add(persona_document(evaluation=GATE))
    return made


def deployment(world: World) -> Raw:
    found = world.cluster.get("Deployment", NAMESPACE, "captain")
    assert found is not None
    return found


def served(world: World) -> str | None:
    serving = world.persona().status.serving
    return serving.revision if serving else None


def test_a_model_that_meets_the_gate_is_served(world: World) -> None:
    world.run(messages=messages(80))
    revision = world.persona().status.revisions[0]
    assert revision.gate == "Passed"
    assert served(world) == revision.id
    label = deployment(world)["spec"]["template"]["metadata"]["labels"]
    assert label["persona-pruner.io/revision"] == revision.id


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


def test_a_first_model_that_misses_the_gate_is_not_served(world: World) -> None:
    world.run(messages=messages(40))
    assert world.cluster.find("Deployment") == []
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", "GateFailed")
    assert "voice: personaScore 40 is below min 60" in ready.message
    assert world.persona().status.url is None
    assert world.condition("Stalled").status == "True"


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


def test_a_lower_gate_is_met_without_any_job(world: World) -> None:
    world.run(messages=messages(40))
    jobs = len(world.cluster.find("Job"))
    world.edit("captain", evaluation={"gate": gate(min=30)})
    world.run()
    assert len(world.cluster.find("Job")) == jobs
    assert world.condition().status == "True"


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
    assert "replicas" not in deployment(world)["spec"]
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


def revision(*metrics: Raw) -> RevisionStatus:
    return RevisionStatus.model_validate({"id": "01234567", "metrics": metrics})


MEASURED = (
    {"name": "personaScore", "value": "60", "dense": "80"},
    {"name": "genericLoss", "value": "2.2", "dense": "2.0"},
    {"name": "checkpointBytes", "value": "1000"},
)


@pytest.mark.parametrize(
    ("gate", "result"),
    [
        (gate(min=60), "Passed"),
        (gate(min="60.5"), "Failed"),
        (gate(max=60), "Passed"),
        (gate(max=59), "Failed"),
        (gate(minRetentionPercent=75), "Passed"),
        (gate(minRetentionPercent=76), "Failed"),
        (loss(maxIncreasePercent=11), "Passed"),
        (loss(maxIncreasePercent=9), "Failed"),
        ({"thresholds": [*gate(min=50)["thresholds"], *loss(max=2)["thresholds"]]}, "Failed"),
        ({"thresholds": [{"name": "x", "metric": "checkpointBytes", "max": 1000}]}, "Passed"),
        # Without the dense model's value nothing can be said about a percentage of it.
        (
            {"thresholds": [{"name": "x", "metric": "checkpointBytes", "maxIncreasePercent": 9}]},
            "Failed",
        ),
    ],
)
def test_the_gate_compares_measurements_with_thresholds(gate: Raw, result: str) -> None:
    assert check(Gate.model_validate(gate), revision(*MEASURED)).result == result


@pytest.mark.parametrize(
    "gate",
    [gate(min=0), gate(max=100), gate(minRetentionPercent=0), loss(maxIncreasePercent=1000)],
)
def test_a_missing_measurement_meets_no_threshold(gate: Raw) -> None:
    checked = check(Gate.model_validate(gate), revision())
    assert checked.result == "Failed"
    assert "not measured" in checked.message


def test_every_model_may_serve_without_a_gate() -> None:
    assert check(None, revision()).result == "NotSet"
