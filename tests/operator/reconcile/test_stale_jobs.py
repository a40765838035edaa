"""Jobs that are no longer needed."""

from persona_operator.reconcile import Delete
from support.fake_cluster import done_message
from support.operator_world import NAMESPACE, World


def test_jobs_of_the_former_spec_are_deleted(world: World) -> None:
    world.run(until="mask")
    stale = world.job("mask")["metadata"]["name"]
    world.edit("captain", pruning={"sparsityPercent": 50})
    plan = world.step()
    assert Delete("Job", stale) in plan.actions
    assert world.cluster.get("Job", NAMESPACE, stale) is None


def test_a_job_is_deleted_once_the_written_status_shows_its_result(world: World) -> None:
    world.step()
    job = world.job("reference")
    world.cluster.finish(job, 0, done_message("reference", loss=0.5))
    plan = world.step(crash_after=99)  # everything but the status is written
    assert plan.wake_after == 1
    assert world.cluster.get("Job", NAMESPACE, job["metadata"]["name"]) is not None
    world.step()
    assert world.stage("reference").state == "Succeeded"
    assert world.cluster.get("Job", NAMESPACE, job["metadata"]["name"]) is not None
    world.step()
    assert world.cluster.get("Job", NAMESPACE, job["metadata"]["name"]) is None
    assert world.stage("reference").metrics == {"loss": "0.5"}


def test_the_last_failed_job_stays_and_a_finished_persona_has_none(world: World) -> None:
    world.fail("reference")
    world.step()
    assert [job["metadata"]["name"] for job in world.cluster.find("Job")] == [
        world.stage("reference").job
    ]
    world.annotate("captain", retry="1")
    world.run()
    assert world.condition().status == "True"
    assert world.cluster.find("Job") == []
