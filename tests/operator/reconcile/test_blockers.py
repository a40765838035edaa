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


def unscheduled(world: World, message: str) -> Raw:
    return {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": stamp(world.cluster.now),
    }


@pytest.mark.parametrize(
    "message",
    [
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: "
        "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        "0/6 nodes are available: 1 node(s) had untolerated taint "
        "{node-role.kubernetes.io/control-plane: }, 5 Insufficient nvidia.com/gpu. preemption: "
        "0/6 nodes are available: 1 Preemption is not helpful for scheduling, 5 No preemption "
        "victims found for incoming pod.",
        "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are "
        "available: 1 Preemption is not helpful for scheduling.",
        "0/2 nodes are available: 2 cannot allocate all claims. preemption: 0/2 nodes are "
        "available: 2 Preemption is not helpful for scheduling.",
        "no nodes available to schedule pods",
    ],
)
def test_a_pod_waits_for_room_on_the_nodes_however_long_it_takes(
    world: World, message: str
) -> None:
    block(world, conditions=[unscheduled(world, message)])
    for hours in (0, 1, 24):
        world.cluster.advance(hours * 3600)
        world.step()
        ready = world.condition()
        assert (ready.status, ready.reason) == ("Unknown", "WaitingForResources")
        assert message[:40] in ready.message
        assert world.condition("Reconciling").status == "True"
        assert world.condition("Stalled").status == "False"


@pytest.mark.parametrize(
    "message",
    [
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. "
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        "0/3 nodes are available: 3 node(s) had untolerated taint {gpu: yes}.",
        'persistentvolumeclaim "cache" not found',
    ],
)
def test_a_pod_that_no_node_fits_stalls_after_the_grace_period(world: World, message: str) -> None:
    block(world, conditions=[unscheduled(world, message)])
    plan = world.step()
    assert (world.condition().status, world.condition().reason) == ("Unknown", "Unschedulable")
    assert plan.wake_after == 600
    world.cluster.advance(601)
    world.step()
    assert world.condition().status == "False"
    assert world.condition("Stalled").status == "True"


QUOTA = 'Error creating: pods "captain-x" is forbidden: exceeded quota: small, requested: '


@pytest.mark.parametrize(
    ("warning", "reason", "grace", "stalled"),
    [
        (QUOTA + "requests.cpu=1,requests.memory=4Gi, used: requests.cpu=3,requests.memory=1Gi, "
         "limited: requests.cpu=3500m,requests.memory=8Gi", "WaitingForQuota", 3600, "False"),
        (QUOTA + "requests.cpu=4, used: requests.cpu=0, limited: requests.cpu=3500m",
         "QuotaExceeded", 601, "True"),
        ('Error creating: pods "captain-x" is forbidden: failed quota: small: must specify memory',
         "QuotaExceeded", 601, "True"),
        ('Error creating: pods "captain-x" is forbidden: violates PodSecurity "restricted"',
         "PodRejected", 0, "True"),
    ],
)  # fmt: skip
def test_a_refused_pod_is_reported_and_stalls_the_stage_unless_the_quota_may_become_free(
    world: World, warning: str, reason: str, grace: int, stalled: str
) -> None:
    world.step()
    world.warnings[f"Job/{world.created_jobs()[0]}"] = warning
    world.step()
    assert world.stage("reference").reason == reason
    assert "captain-x" not in world.condition().message  # the name changes with every attempt
    world.cluster.advance(grace)
    world.step()
    assert world.condition("Stalled").status == stalled


def test_a_volume_without_its_config_map_is_reported(world: World) -> None:
    block(world, state=waiting("ContainerCreating"))
    pod = world.cluster.pods_of(world.job("reference"))[0]["metadata"]["name"]
    world.warnings[f"Pod/{pod}"] = 'MountVolume.SetUp failed for "ca" : configmap "ca" not found'
    world.step()
    assert world.condition().reason == "MissingConfigMap"
