"""Why a Job failed, and whether it is tried again."""

from typing import Any

import pytest

from persona_jobs.errors import EXIT_INTERRUPTED
from support.fake_cluster import failed_message
from support.operator_world import World, persona_document


@pytest.mark.parametrize(
    ("code", "message", "pod_reason", "reason", "expected"),
    [
        (2, failed_message("s", "InputError", "is empty", "Add data", "spec.instructions.uri"), "",
         "InvalidInput", "spec.instructions.uri: is empty. Add data."),
        (2, failed_message("s", "CorruptArtifactError", "z.json is truncated", ""), "",
         "CorruptArtifact", "z.json is truncated."),
        (2, "", "", "InvalidInput", "exit code 2"),
        (3, failed_message("s", "OutOfMemoryError", "the device ran out of memory"), "",
         "OutOfMemory", "profile with more memory"),
        (137, "", "OOMKilled", "OutOfMemory", "killed at its memory limit"),
    ],
)  # fmt: skip
def test_a_failure_that_no_retry_can_fix_is_final(
    world: World, code: int, message: str, pod_reason: str, reason: str, expected: str
) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), code, message, pod_reason)
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason) == ("Failed", reason)
    assert expected in stage.message
    assert "persona-pruner.io/retry" in stage.message
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", reason)
    assert expected in ready.message
    assert world.condition("Stalled").status == "True"
    world.cluster.advance(100_000)
    world.step()
    assert len(world.created_jobs()) == 1
    assert world.events.count(("Warning", "StageFailed")) == 1


ON = {"enabled": True}
LEARNED = {"method": "StraightThrough"}


@pytest.mark.parametrize(
    ("stage", "spec", "advised"),
    [
        ("mask", {"pruning": LEARNED}, "spec.pruning.straightThrough.microBatchSize"),
        ("mask", {"pruning": {**LEARNED, "straightThrough": {"microBatchSize": 1}}}, None),
        ("mask", {"pruning": {"method": "ActivationNorm"}}, None),
        ("mask", {}, None),
        ("recover", {"recovery": {"fineTune": ON}}, "spec.recovery.fineTune.microBatchSize"),
        ("recover", {"recovery": {"fineTune": {**ON, "microBatchSize": 1}}}, None),
        ("recover", {}, None),
        ("slice", {}, None),
    ],
)
def test_a_smaller_micro_batch_is_advised_only_where_there_is_one(
    stage: str, spec: dict[str, Any], advised: str | None
) -> None:
    world = World()
    world.add(persona_document(**spec))
    world.run(until=stage)
    world.cluster.finish(world.job(stage), 137, "", "OOMKilled")
    world.step()
    message = world.stage(stage).message
    assert "Use a profile with more memory" in message
    assert ("microBatchSize" in message) == (advised is not None)
    assert advised is None or f"or a smaller {advised}." in message


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (1, failed_message("s", "StoreError", "s3://b can't be reached"), "StoreUnavailable"),
        (1, failed_message("s", "EndpointError", "the teacher answers 503"), "EndpointUnavailable"),
        (1, "", "StageFailed"),
        (139, "", "StageFailed"),
        (137, "", "Killed"),
    ],
)
def test_a_transient_failure_is_retried_a_bounded_number_of_times(
    world: World, code: int, message: str, reason: str
) -> None:
    for _ in range(20):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, code, message)
        world.cluster.advance(200)
    stage = world.stage("reference")
    assert (stage.state, stage.reason, stage.failures) == ("Failed", reason, 4)
    assert len(world.created_jobs()) == 4  # one and three retries
    assert world.created_jobs()[-1].endswith("-4")
    assert world.condition("Stalled").status == "True"


def test_interruptions_use_up_no_retry(world: World) -> None:
    for _ in range(12):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, 143)
        world.cluster.advance(60)
    assert world.stage("reference").failures == 0
    world.run()
    assert world.condition().status == "True"


def test_interruptions_are_bounded_too(world: World) -> None:
    for _ in range(120):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, 143)
        world.cluster.advance(700)
    assert world.stage("reference").state == "Failed"


def test_the_job_names_the_exit_code_of_a_pod_that_disappeared(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 2, pod_kept=False)
    world.step()
    world.cluster.advance(20)
    world.step()
    assert (world.stage("reference").state, world.stage("reference").reason) == (
        "Failed",
        "InvalidInput",
    )


DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


def test_a_deadline_is_final_for_a_stage_that_cannot_resume(world: World) -> None:
    world.run(until="slice")
    job = world.job("slice")
    world.cluster.run_pod(world.cluster.make_pod(job))
    world.step()
    world.cluster.end_by_kubelet(job, *DEADLINE)
    world.step()
    assert (world.stage("slice").state, world.stage("slice").reason) == (
        "Failed",
        "DeadlineExceeded",
    )
    assert "activeDeadlineSeconds" in world.condition().message


def test_a_deadline_of_a_resumable_stage_leads_to_a_retry(world: World) -> None:
    world.run(until="mask")
    job = world.job("mask")
    world.cluster.run_pod(world.cluster.make_pod(job))
    world.step()
    world.cluster.end_by_kubelet(job, *DEADLINE, code=EXIT_INTERRUPTED)
    world.step()
    stage = world.stage("mask")
    assert (stage.state, stage.reason, stage.failures) == ("WaitingForRetry", "DeadlineExceeded", 1)


@pytest.mark.parametrize(
    "message",
    [
        'Usage of EmptyDir volume "scratch" exceeds the limit "20Gi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. ",
        'Container stage exceeded its local ephemeral storage limit "1Gi". ',
    ],
)
def test_a_full_scratch_volume_is_named_and_not_tried_again(world: World, message: str) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.cluster.end_by_kubelet(world.job("reference"), "Evicted", message)
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason) == ("Failed", "ScratchFull")
    assert message.strip() in stage.message
    assert "Raise spec.execution.stages[reference].resources.scratch" in stage.message
    assert "memory" not in stage.message


def test_a_pod_that_a_node_short_of_memory_evicted_is_no_failure(world: World) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    text = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi."
    world.cluster.end_by_kubelet(world.job("reference"), "Evicted", text)
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason, stage.failures) == ("WaitingForRetry", "Evicted", 0)
    assert text in stage.message
