"""Sidecars that somebody injects into the pods of stages."""

import pytest

from persona_operator.reconcile import Delete
from support.fake_cluster import Raw, failed_message, success_message
from support.operator_world import NAMESPACE, World


def end_beside_sidecar(world: World, stage: str, code: int, message: str) -> str:
    """End the stage's container while a sidecar runs on, and return the Job's name."""
    job = world.job(stage)
    pod = world.cluster.make_pod(job)
    ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": message}

    def change(document: Raw) -> None:
        document["spec"]["containers"].append({"name": "proxy", "image": "proxy:1"})
        document["status"] = {
            "phase": "Running",
            "containerStatuses": [
                {"name": "stage", "state": {"terminated": ended}},
                {"name": "proxy", "state": {"running": {}}},
            ],
        }

    world.cluster.update("Pod", NAMESPACE, pod["metadata"]["name"], change)
    return str(job["metadata"]["name"])


def test_a_stage_ends_with_its_container(world: World) -> None:
    world.step()
    name = end_beside_sidecar(world, "reference", 0, success_message("reference"))
    plan = world.step()
    assert world.stage("reference").state == "Succeeded"
    assert world.stage("reference").metrics == {"loss": "0.5"}
    # Not before the status shows how it ended: its pod holds the only report.
    assert Delete("Job", name) not in plan.actions
    assert Delete("Job", name) in world.step().actions
    world.run()
    assert world.condition().status == "True"
    assert len(world.created_jobs()) == 7


@pytest.mark.parametrize(
    ("code", "error", "state"),
    [(2, "InputError", "Failed"), (1, "StoreError", "WaitingForRetry")],
)
def test_a_failure_beside_a_sidecar_is_reported_and_its_job_removed(
    world: World, code: int, error: str, state: str
) -> None:
    world.step()
    name = end_beside_sidecar(world, "reference", code, failed_message("s", error, "It is wrong."))
    world.step()
    assert world.stage("reference").state == state
    assert "It is wrong." in world.stage("reference").message

    def finalizers(*names: str) -> None:
        def change(document: Raw) -> None:
            document["metadata"]["finalizers"] = list(names)

        world.cluster.update("Job", NAMESPACE, name, change)

    finalizers("orphan")
    assert Delete("Job", name) in world.step().actions
    assert world.job("reference")["metadata"]["deletionTimestamp"]
    world.step()
    assert world.stage("reference").state == state  # while it is being deleted
    finalizers()
    world.step()
    assert world.stage("reference").state == state
    world.cluster.advance(3600)
    world.step()
    assert len(world.created_jobs()) == (1 if state == "Failed" else 2)
    assert world.stage("reference").failures == 1


def test_pods_of_stages_opt_out_of_injection(world: World) -> None:
    world.step()
    metadata = world.job("reference")["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
    assert metadata["annotations"]["linkerd.io/inject"] == "disabled"


def pod_status(world: World, name: str, phase: str, message: str, **sidecar: Raw) -> None:
    ended = {"exitCode": 1, "reason": "Error", "message": message}
    containers = [{"name": "stage", "state": {"terminated": ended}}]
    containers += [{"name": "proxy", "state": sidecar}] if sidecar else []

    def change(document: Raw) -> None:
        document["status"] = {"phase": phase, "containerStatuses": containers}

    world.cluster.update("Pod", NAMESPACE, name, change)


@pytest.mark.parametrize("beside_sidecar", [False, True])
def test_a_failure_counts_once_however_its_pod_and_job_come_to_their_ends(
    world: World, beside_sidecar: bool
) -> None:
    world.step()
    job = world.job("reference")
    pod = world.cluster.make_pod(job)["metadata"]["name"]
    message = failed_message("reference", "StoreError", "The store can't be reached.")
    running: Raw = {"running": {}} if beside_sidecar else {}
    pod_status(world, pod, "Running", message, **running)
    world.step()
    pod_status(world, pod, "Failed", message, **({"terminated": {}} if beside_sidecar else {}))
    world.step()
    found = world.cluster.get("Job", NAMESPACE, job["metadata"]["name"])
    if found is not None and "deletionTimestamp" not in found["metadata"]:
        world.cluster.end_job(job, failed=("BackoffLimitExceeded", "Job has reached the limit"))
    world.step()
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.attempts, stage.failures) == ("WaitingForRetry", 1, 1)
