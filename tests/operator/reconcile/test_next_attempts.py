"""When the next attempt starts."""

from persona_operator.reconcile import Stored
from persona_operator.reconcile.ended_jobs import retry_delay
from support.fake_cluster import failed_message
from support.operator_world import COMMIT, World, persona_document, settings


def test_the_spec_sets_the_number_of_retries() -> None:
    world = World()
    stages = [{"name": "reference", "maxRetries": 0}]
    world.add(persona_document(execution={"stages": stages}))
    world.step()
    world.cluster.finish(world.job("reference"), 1)
    world.step()
    assert world.stage("reference").state == "Failed"


def test_a_retry_waits_and_the_status_shows_it(world: World) -> None:
    world.step()
    world.cluster.finish(
        world.job("reference"), 1, failed_message("s", "StoreError", "is unreachable")
    )
    plan = world.step()
    stage = world.stage("reference")
    assert stage.state == "WaitingForRetry"
    assert "is unreachable. It is tried again (attempt 2 of 4)." in stage.message
    assert stage.retry_at is not None
    assert plan.wake_after is not None
    assert world.condition().status == "Unknown"
    world.step()
    assert len(world.created_jobs()) == 1
    world.cluster.advance(12)
    world.step()
    assert len(world.created_jobs()) == 2


def test_an_unreachable_store_does_not_shorten_the_back_off(world: World) -> None:
    world.step()
    world.cluster.finish(
        world.job("reference"), 1, failed_message("s", "StoreError", "is unreachable")
    )
    world.step()
    retry_at = world.stage("reference").retry_at
    for state in ("Unknown", "Pending", "Unknown"):
        world.stored[("reference", world.planned_keys()["reference"])] = Stored(state)
        world.cluster.advance(2)
        world.step()
        assert world.stage("reference").retry_at == retry_at
    assert len(world.created_jobs()) == 1


def test_the_back_off_doubles_up_to_a_limit() -> None:
    delays = [retry_delay(failures, 10, 600) for failures in range(0, 9)]
    assert delays == [10, 10, 20, 40, 80, 160, 320, 600, 600]
    assert retry_delay(10_000, 10, 600) == 600


def test_the_retry_annotation_starts_another_attempt(world: World) -> None:
    world.fail("reference")
    world.annotate("captain", retry="1")
    world.step()
    assert len(world.created_jobs()) == 2
    assert world.persona().status.last_handled_retry == "1"
    world.run()
    assert world.condition().status == "True"


def test_a_changed_spec_starts_another_attempt(world: World) -> None:
    world.fail("reference")
    world.edit("captain", baseModel={
        "uri": "hf://org/model", "revision": COMMIT, "credentialsSecretRef": {"name": "hub"},
    })  # fmt: skip
    world.run()
    assert world.condition().status == "True"


def test_changed_settings_start_another_attempt(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 137, "", "OOMKilled")
    world.step()
    assert world.stage("reference").state == "Failed"
    world.settings = settings(profiles={"default": {"memory": "64Gi"}})
    world.run()
    assert world.condition().status == "True"


def test_a_job_starts_only_after_the_lookup_in_the_store() -> None:
    world = World()
    world.add(persona_document(suspend=True))
    keys = world.planned_keys()
    world.stored[("reference", keys["reference"])] = Stored("Pending")
    world.edit("captain", suspend=False)
    world.step()
    assert world.stage("reference").reason == "CheckingStore"
    world.stored[("reference", keys["reference"])] = Stored("Unknown")
    world.step()
    assert len(world.created_jobs()) == 1


def test_the_number_of_parallel_jobs_is_bounded() -> None:
    world = World(settings(maxParallelStages=1))
    world.add(persona_document("captain"))
    world.add(persona_document("poet", seed=7, scoring={"firstBlock": 1}))
    world.step("captain")
    plan = world.step("poet")
    assert len(world.created_jobs()) == 1
    assert world.stage("reference", "poet").reason == "WaitingForCapacity"
    assert plan.wake_after is not None
