"""What keeps a pod from starting."""

from typing import Any

import pytest

from support.fake_cluster import Raw, stamp
from support.operator_world import World


def block(world: World, **status: Any) -> None:
    world.step()
    pod = world.cluster.make_pod(world.job("reference"))
    world.cluster.pod_status(pod, phase="Pending", **status)


def waiting(reason: str, message: str = "") -> Raw:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (waiting("ImagePullBackOff", 'Back-off pulling image "x"'), "ImagePullFailed",
         "registry.example/jobs:1 can't be pulled"),
        (waiting("ErrImagePull", "not found"), "ImagePullFailed", "image pull secret"),
        (waiting("InvalidImageName", "bad"), "ImagePullFailed", "Check its name"),
        (waiting("CreateContainerConfigError", 'secret "store" not found'), "MissingSecret",
         "Secret store doesn't exist in namespace stories. Create it"),
        (waiting("CreateContainerConfigError", 'configmap "ca" not found'), "MissingConfigMap",
         "ConfigMap ca"),
        (waiting("CreateContainerConfigError",
                 "couldn't find key token in Secret stories/hub"), "MissingSecretKey",
         "Secret hub in namespace stories has no key token"),
        (waiting("CreateContainerConfigError", "runAsNonRoot"), "ContainerConfigError",
         "runAsNonRoot"),
    ],
)  # fmt: skip
def test_a_pod_that_cannot_start_is_reported_at_once(
    world: World, state: Raw, reason: str, expected: str
) -> None:
    block(world, state=state)
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason) == ("Pending", reason)
    assert expected in stage.message
    assert (world.condition().status, world.condition().reason) == ("False", reason)
    assert world.condition("Stalled").status == "True"
    assert ("Warning", reason) in world.events
    # Once the cause is fixed, the pod starts by itself.
    world.cluster.run_pod(world.cluster.pods_of(world.job("reference"))[0])
    world.step()
    assert world.condition().status == "Unknown"
    assert len(world.created_jobs()) == 1


def test_an_unschedulable_pod_is_reported_at_once_and_stalls_after_the_grace_period(
    world: World,
) -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        "lastTransitionTime": stamp(world.cluster.now),
    }
    block(world, conditions=[condition])
    plan = world.step()
    assert (world.condition().status, world.condition().reason) == ("Unknown", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in world.condition().message
    assert plan.wake_after == 60
    world.cluster.advance(61)
    world.step()
    assert world.condition().status == "False"
    assert world.condition("Stalled").status == "True"


@pytest.mark.parametrize(
    ("warning", "reason", "grace"),
    [
        ('Error creating: pods "captain-x" is forbidden: exceeded quota: small, requested: cpu=1',
         "QuotaExceeded", 61),
        ('Error creating: pods "captain-x" is forbidden: violates PodSecurity "restricted"',
         "PodRejected", 0),
    ],
)  # fmt: skip
def test_a_refused_pod_is_reported_and_stalls_the_stage(
    world: World, warning: str, reason: str, grace: int
) -> None:
    world.step()
    world.warnings[f"Job/{world.created_jobs()[0]}"] = warning
    world.step()
    assert world.stage("reference").reason == reason
    assert "captain-x" not in world.condition().message  # the name changes with every attempt
    world.cluster.advance(grace)
    world.step()
    assert world.condition("Stalled").status == "True"


def test_a_volume_without_its_config_map_is_reported(world: World) -> None:
    block(world, state=waiting("ContainerCreating"))
    pod = world.cluster.pods_of(world.job("reference"))[0]["metadata"]["name"]
    world.warnings[f"Pod/{pod}"] = 'MountVolume.SetUp failed for "ca" : configmap "ca" not found'
    world.step()
    assert world.condition().reason == "MissingConfigMap"
