"""Results that were finished and are no longer in the store."""

from datetime import timedelta
from tempfile import TemporaryDirectory

import pytest

from persona_jobs.errors import CorruptArtifactError
from persona_jobs.store import FileStore, StageArtifacts
from persona_operator.reconcile import Create, Stored
from persona_operator.reconcile.times import parse_time
from support.fake_cluster import failed_message, success_message
from support.operator_world import World


def jobs_of(world: World, stage: str) -> list[str]:
    return [name for name in world.created_jobs() if f"-{stage}-" in name]


def missing(world: World, stage: str) -> str:
    """Return what a stage reports that can't read an input."""
    with TemporaryDirectory() as empty, pytest.raises(CorruptArtifactError) as caught:
        StageArtifacts(FileStore(empty)).local_dir(stage, world.stage(stage).key)
    error = caught.value
    return failed_message("mask", type(error).__name__, error.message, error.hint, error.subject)


def test_a_missing_input_is_made_again_by_its_stage(world: World) -> None:
    world.run()
    world.edit("captain", pruning={"sparsityPercent": 40})
    world.step()
    world.cluster.advance(60)
    world.cluster.finish(world.job("mask"), 2, missing(world, "rewrite"))
    world.step()
    assert (world.stage("mask").state, world.stage("mask").reason) == (
        "WaitingForRetry",
        "InputLost",
    )
    assert "Stage rewrite makes its result again" in world.stage("mask").message
    assert "Run the stage" not in world.stage("mask").message
    assert world.stage("rewrite").state == "Pending"
    assert len(jobs_of(world, "rewrite")) == 2
    world.step()
    assert world.stage("mask").reason == "WaitingForInput"
    assert world.condition("Stalled").status == "False"
    # The loss is remembered when the Job that reported it is gone.
    world.cluster.delete("Job", "stories", world.job("mask")["metadata"]["name"])
    world.step()
    assert world.stage("rewrite").state == "Pending"
    world.cluster.advance(60)
    world.run()
    assert world.condition().status == "True"
    assert world.stage("rewrite").lost_at is None
    assert len(jobs_of(world, "rewrite")) == 2
    assert len(jobs_of(world, "score")) == 1


def test_an_input_that_stays_missing_ends_in_a_failure(world: World) -> None:
    world.run(until="mask")
    for _ in range(20):
        world.cluster.advance(700)
        for job in world.cluster.open_jobs():
            stage = job["metadata"]["labels"]["persona-pruner.io/stage"]
            lost = stage == "mask"
            message = missing(world, "rewrite") if lost else success_message(stage)
            world.cluster.finish(job, 2 if lost else 0, message)
        world.step()
        world.step()
    assert (world.stage("mask").state, world.stage("mask").failures) == ("Failed", 4)
    assert len(jobs_of(world, "mask")) == 4


def test_a_damaged_object_that_is_no_input_is_reported(world: World) -> None:
    world.run(until="mask")
    text = failed_message("mask", "CorruptArtifactError", "model.safetensors is truncated")
    world.cluster.finish(world.job("mask"), 2, text)
    world.step()
    assert (world.stage("mask").state, world.stage("mask").reason) == ("Failed", "CorruptArtifact")


def test_what_the_store_lacks_is_made_again(world: World) -> None:
    world.run()
    served = world.persona().status.serving.revision
    world.cluster.advance(3600)
    world.annotate("captain", retry="1")
    at = ("slice", world.stage("slice").key)
    world.stored[at] = Stored("Pending")
    world.step()
    assert world.stage("slice").state == "Succeeded"
    assert world.persona().status.last_handled_retry is None  # the answer is still awaited
    world.stored[at] = Stored("Absent")
    plan = world.step()
    assert [item.manifest["metadata"]["name"] for item in plan.actions
            if isinstance(item, Create)] == [jobs_of(world, "slice")[-1]]  # fmt: skip
    assert world.persona().status.last_handled_retry == "1"
    assert world.persona().status.serving.revision == served
    assert not any(key.startswith("slice/") for key in world.persona().status.finished_keys)
    del world.stored[at]
    world.run()
    assert world.condition().status == "True"
    assert (len(jobs_of(world, "slice")), len(jobs_of(world, "evaluate"))) == (2, 1)


def test_an_answer_from_before_the_result_was_made_is_no_loss(world: World) -> None:
    world.run()
    at = ("slice", world.stage("slice").key)
    finished = parse_time(world.stage("slice").finished_at)
    world.stored[at] = Stored("Absent", looked_up=finished + timedelta(seconds=1))
    world.step()
    assert world.stage("slice").state == "Succeeded"
    world.stored[at] = Stored("Absent", looked_up=finished + timedelta(seconds=61))
    world.step()
    assert world.stage("slice").state == "Pending"


def test_a_finished_key_that_the_store_lacks_is_not_trusted(world: World) -> None:
    world.run()
    first = world.stage("mask").key
    world.edit("captain", pruning={"sparsityPercent": 40})
    world.run()
    world.cluster.advance(3600)
    world.stored[("mask", first)] = Stored("Absent")
    world.edit("captain", pruning={"sparsityPercent": 25})
    world.step()
    assert world.stage("mask").key == first
    assert world.stage("mask").state == "Pending"
