"""When the next attempt starts."""

import pytest

from persona_operator.reconcile import Stored
from persona_operator.reconcile.ended_jobs import retry_delay
from support.fake_cluster import Raw, failed_message
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


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": {"replicas": 3}},
        {"suspend": True},
        {"artifactPolicy": "Delete"},
        {"evaluation": {"maxQueries": 5}},
        {"evaluation": {"gate": {"thresholds": [
            {"name": "voice", "metric": "personaScore", "min": "1"}]}}},
        {"execution": {"stages": [{"name": "mask", "resources": {"memory": "9Gi"}}]}},
    ],
)  # fmt: skip
def test_a_change_that_the_failed_stage_does_not_depend_on_fixes_nothing(
    world: World, changes: Raw
) -> None:
    world.fail("reference")
    failed = world.stage("reference")
    world.edit("captain", **changes)
    world.step()
    world.edit("captain", suspend=False)
    world.step()
    assert world.stage("reference") == failed
    assert world.condition("Stalled").status == "True"
    assert len(world.created_jobs()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"execution": {"stages": [{"name": "reference", "resources": {"memory": "9Gi"}}]}},
        {"execution": {"stages": [{"name": "reference", "maxRetries": 5}]}},
        {"compute": {"device": "CPU"}},
        {"storage": {"credentialsSecretRef": {"name": "mine"}}},
    ],
)
def test_a_fix_counts_also_when_it_comes_before_the_failure_is_seen(
    world: World, changes: Raw
) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.step()
    world.edit("captain", **changes)
    world.step()  # the new generation is observed while the old attempt still runs
    assert len(world.created_jobs()) == 1
    world.cluster.finish(world.job("reference"), 2, failed_message("s", "InputError", "is wrong"))
    world.step()
    world.step()
    assert len(world.created_jobs()) == 2
    assert world.stage("reference").failures == 0


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
