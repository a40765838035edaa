"""Results of ended Jobs, and results that exist without one."""

from persona_operator.reconcile import Stored
from support.fake_cluster import done_message, evaluation_metrics
from support.operator_world import World, persona_document, settings


def test_results_of_the_stage_process_reach_the_status(world: World) -> None:
    world.step()
    message = done_message("reference", loss=0.123456789, kept=3, note="fine", nested={"a": 1})
    world.cluster.finish(world.job("reference"), 0, message)
    world.step()
    assert world.stage("reference").metrics == {"loss": "0.123457", "kept": "3", "note": "fine"}


def test_the_termination_message_is_awaited(world: World) -> None:
    world.step()
    job = world.job("reference")
    world.cluster.make_pod(job)
    world.cluster.end_job(job)  # seen before the pod's own end
    world.step()
    assert world.stage("reference").reason == "CollectingResult"
    pod = world.cluster.pods_of(job)[0]
    world.cluster.end_pod(pod, 0, done_message("reference", loss=1.0))
    world.step()
    assert world.stage("reference").metrics == {"loss": "1"}


def test_a_lost_termination_message_is_not_awaited_forever(world: World) -> None:
    world.step()
    world.cluster.end_job(world.job("reference"))
    world.step()
    world.cluster.advance(20)
    world.step()
    assert world.stage("reference").state == "Succeeded"


def test_lost_metrics_of_an_evaluation_are_read_again(world: World) -> None:
    world.run(until="evaluate")
    world.cluster.finish(world.job("evaluate"), 0, "", pod_kept=False)
    world.step()
    world.cluster.advance(20)
    world.step()
    assert (world.stage("evaluate").state, world.stage("evaluate").reason) == (
        "WaitingForRetry",
        "ResultLost",
    )
    world.cluster.advance(20)
    world.run()
    assert world.condition().status == "True"
    assert world.stage("evaluate").attempts == 2


def test_an_evaluation_without_valid_metrics_counts_as_lost(world: World) -> None:
    world.run(until="evaluate")
    world.cluster.finish(world.job("evaluate"), 0, done_message("evaluate", served="sliced"))
    world.step()
    assert world.stage("evaluate").reason == "ResultLost"


def test_a_jobs_image_of_another_release_is_reported(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 0, done_message("reference", key="f" * 64))
    world.step()
    world.step()
    assert (world.stage("reference").reason, world.stage("reference").failures) == (
        "VersionMismatch",
        1,
    )


def twins() -> World:
    world = World()
    for name in ("captain", "twin"):
        document = persona_document(name)
        document["spec"]["persona"] = {"text": "You are a sailor."}
        world.add(document)
    return world


def test_another_persona_waits_for_the_same_result_and_reuses_it() -> None:
    world = twins()
    world.step("captain")
    world.step("twin")
    stage = world.stage("reference", "twin")
    assert (stage.state, stage.reason) == ("Pending", "WaitingForSharedStage")
    assert stage.message == "PersonaModel captain is computing the same result."
    world.run("captain")
    world.run("twin")
    assert all(item.reused for item in world.persona("twin").status.stages)
    assert len(world.created_jobs()) == 7
    assert world.condition("Ready", "twin").status == "True"
    first, second = (world.persona(name).status for name in ("captain", "twin"))
    assert second.revisions[0].metrics == first.revisions[0].metrics != []
    assert (second.score, second.size) == (first.score, first.size)


def test_a_result_that_the_store_misses_is_made_again_whatever_a_status_lists() -> None:
    world = twins()
    world.run("captain")
    key = world.stage("reference").key
    world.stored[("reference", key)] = Stored("Absent")
    world.step("twin")
    assert world.stage("reference", "twin").reason == "Starting"


def test_another_personas_failure_is_not_shared() -> None:
    world = twins()
    world.fail("reference")
    world.step("twin")
    assert world.stage("reference", "twin").reason == "Starting"


def test_another_personas_suspended_job_is_not_awaited() -> None:
    world = twins()
    world.step("captain")
    world.edit("captain", suspend=True)
    world.step("captain")
    world.step("twin")
    assert len(world.created_jobs()) == 2
    world.edit("captain", suspend=False)
    world.step("captain")  # it resumes only after the other one has ended
    assert world.stage("reference").reason == "WaitingForSharedStage"
    assert world.job("reference", "captain")["spec"]["suspend"] is True


def test_jobs_of_another_store_are_not_shared() -> None:
    world = twins()
    world.edit("twin", storage={"endpoint": "https://elsewhere.example"})
    world.step("captain")
    world.step("twin")
    assert len(world.created_jobs()) == 2


def test_stored_results_are_reused_without_any_job() -> None:
    world = World(settings())
    world.add(persona_document(suspend=True))
    keys = world.planned_keys()
    for name, key in keys.items():
        metrics = evaluation_metrics() if name == "evaluate" else {"steps": 5}
        world.stored[(name, key)] = Stored("Present", metrics)
    world.edit("captain", suspend=False)
    world.run()
    assert world.created_jobs() == []
    assert all(item.reused for item in world.persona().status.stages)
    assert world.condition().status == "True"
