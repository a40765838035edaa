"""Stages from start to end: one test a state or a transition."""

from datetime import timedelta
from typing import Any

import pytest

from persona_operator.reconcile import Create, Delete, PersonaText, SetSuspend, Stored
from persona_operator.reconcile.ended_jobs import retry_delay
from support.fake_cluster import (
    Raw,
    done_message,
    evaluation_metrics,
    failed_message,
    stamp,
    success_message,
)
from support.operator_world import NAMESPACE, World, persona_document, settings


@pytest.fixture
def world() -> World:
    made = World()
    made.add(persona_document())
    return made


def created(world: World) -> list[str]:
    return [name for kind, name in world.cluster.created if kind == "Job"]


def test_the_first_stage_starts_and_the_rest_wait(world: World) -> None:
    world.step()
    states = [(item.name, item.state, item.reason) for item in world.persona().status.stages]
    assert states == [
        ("reference", "Pending", "Starting"),
        ("score", "Pending", "WaitingForInput"),
        ("rewrite", "Pending", "WaitingForInput"),
        ("mask", "Pending", "WaitingForInput"),
        ("recover", "Pending", "WaitingForInput"),
        ("slice", "Pending", "WaitingForInput"),
        ("evaluate", "Pending", "WaitingForInput"),
    ]
    ready = world.condition()
    assert (ready.status, ready.reason) == ("Unknown", "Reference")
    assert world.condition("Reconciling").status == "True"
    assert world.condition("Stalled").status == "False"


def test_reconciling_again_does_nothing(world: World) -> None:
    world.step()
    plan = world.plan()
    assert plan.actions == ()
    assert plan.status == world.persona().status


def test_a_running_pod_is_told(world: World) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.step()
    assert world.stage("reference").state == "Running"
    assert world.condition().message == "Stage reference is running."


def test_all_stages_lead_to_a_served_revision(world: World) -> None:
    world.run()
    ready = world.condition()
    assert (ready.status, ready.reason) == ("True", "Serving")
    status = world.persona().status
    assert [item.state for item in status.stages] == ["Succeeded"] * 7
    assert status.serving.revision == status.revision == status.revisions[0].id
    assert (status.size, status.score) == ("210 MB (dense 270 MB)", "80.0 (dense 82.0)")
    assert status.latency == "40 ms/token (dense 40 ms/token)"
    assert world.events.count(("Normal", "Ready")) == 1


def test_recover_is_left_out_when_both_parts_are_off() -> None:
    world = World()
    off = {"refit": {"enabled": False}, "fineTune": {"enabled": False}}
    world.add(persona_document(recovery=off))
    world.run()
    assert "recover" not in [item.name for item in world.persona().status.stages]
    assert world.condition().status == "True"


def test_results_of_the_stage_process_reach_the_status(world: World) -> None:
    world.step()
    message = done_message("reference", loss=0.123456789, kept=3, note="fine", nested={"a": 1})
    world.cluster.finish(world.job("reference"), 0, message)
    world.step()
    assert world.stage("reference").metrics == {"loss": "0.123457", "kept": "3", "note": "fine"}


def test_a_missing_job_of_a_finished_stage_means_nothing(world: World) -> None:
    world.run()
    before = created(world)
    for job in world.cluster.find("Job"):
        world.cluster.delete("Job", NAMESPACE, job["metadata"]["name"])
    world.run()
    assert created(world) == before
    assert world.condition().status == "True"


def test_a_job_that_someone_deleted_is_made_again_as_another_attempt(world: World) -> None:
    world.step()
    job = world.job("reference")
    world.cluster.delete("Job", NAMESPACE, job["metadata"]["name"])
    world.step()
    assert created(world)[-1] == f"{job['metadata']['name']}-2"
    assert world.stage("reference").failures == 0


def test_a_crash_after_making_the_job_makes_no_second_one(world: World) -> None:
    world.step(crash_after=10)
    assert len(created(world)) == 1
    world.step()
    assert len(created(world)) == 1
    assert world.stage("reference").attempts == 1


def test_the_termination_message_is_waited_for(world: World) -> None:
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


def test_a_lost_termination_message_is_not_waited_for_for_ever(world: World) -> None:
    world.step()
    world.cluster.end_job(world.job("reference"))
    world.step()
    world.cluster.advance(20)
    world.step()
    assert world.stage("reference").state == "Succeeded"


def test_lost_figures_of_an_evaluation_are_read_again(world: World) -> None:
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


# Failures


@pytest.mark.parametrize(
    ("code", "message", "pod_reason", "reason", "told"),
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
def test_what_no_retry_can_help_is_told_at_once(
    world: World, code: int, message: str, pod_reason: str, reason: str, told: str
) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), code, message, pod_reason)
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason) == ("Failed", reason)
    assert told in stage.message
    assert "persona-pruner.io/retry" in stage.message
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", reason)
    assert told in ready.message
    assert world.condition("Stalled").status == "True"
    world.cluster.advance(100_000)
    world.step()
    assert len(created(world)) == 1
    assert world.events.count(("Warning", "StageFailed")) == 1


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (1, failed_message("s", "StoreError", "s3://b can't be reached"), "StoreUnavailable"),
        (1, failed_message("s", "TeacherError", "the teacher answers 503"), "TeacherUnavailable"),
        (1, "", "StageFailed"),
        (139, "", "StageFailed"),
        (137, "", "Killed"),
    ],
)
def test_what_may_pass_is_tried_again_a_bounded_number_of_times(
    world: World, code: int, message: str, reason: str
) -> None:
    for _ in range(20):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, code, message)
        world.cluster.advance(200)
    stage = world.stage("reference")
    assert (stage.state, stage.reason, stage.failures) == ("Failed", reason, 4)
    assert len(created(world)) == 4  # one and three retries
    assert created(world)[-1].endswith("-4")
    assert world.condition("Stalled").status == "True"


def test_the_number_of_retries_is_the_users() -> None:
    world = World()
    stages = [{"name": "reference", "maxRetries": 0}]
    world.add(persona_document(execution={"stages": stages}))
    world.step()
    world.cluster.finish(world.job("reference"), 1)
    world.step()
    assert world.stage("reference").state == "Failed"


def test_a_retry_waits_and_says_so(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 1, failed_message("s", "StoreError", "is away"))
    plan = world.step()
    stage = world.stage("reference")
    assert stage.state == "WaitingForRetry"
    assert "is away. It is tried again (attempt 2 of 4)." in stage.message
    assert stage.retry_at is not None
    assert plan.wake_after is not None
    assert world.condition().status == "Unknown"
    world.step()
    assert len(created(world)) == 1
    world.cluster.advance(12)
    world.step()
    assert len(created(world)) == 2


def test_asking_a_store_that_is_away_cuts_no_pause_short(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 1, failed_message("s", "StoreError", "is away"))
    world.step()
    retry_at = world.stage("reference").retry_at
    for state in ("Unknown", "Pending", "Unknown"):
        world.stored[("reference", planned(world)["reference"])] = Stored(state)
        world.cluster.advance(2)
        world.step()
        assert world.stage("reference").retry_at == retry_at
    assert len(created(world)) == 1


def test_pauses_double_up_to_a_limit() -> None:
    delays = [retry_delay(failures, 10, 600) for failures in range(0, 9)]
    assert delays == [10, 10, 20, 40, 80, 160, 320, 600, 600]
    assert retry_delay(10_000, 10, 600) == 600


def test_interruptions_use_up_no_retry(world: World) -> None:
    for _ in range(12):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, 143)
        world.cluster.advance(60)
    assert world.stage("reference").failures == 0
    world.run()
    assert world.condition().status == "True"


def test_even_interruptions_are_bounded(world: World) -> None:
    for _ in range(120):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, 143)
        world.cluster.advance(700)
    assert world.stage("reference").state == "Failed"


def test_a_pod_that_vanished_with_its_exit_code_told_by_the_job(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 2, pod_kept=False)
    world.step()
    world.cluster.advance(20)
    world.step()
    assert (world.stage("reference").state, world.stage("reference").reason) == (
        "Failed",
        "InvalidInput",
    )


def test_a_deadline_is_final_where_nothing_can_be_resumed(world: World) -> None:
    world.step()
    job = world.job("reference")
    world.cluster.run_pod(world.cluster.make_pod(job))
    world.step()
    world.cluster.delete_pods(job)
    world.cluster.end_job(job, failed=("DeadlineExceeded", "was active too long"))
    world.step()
    assert world.stage("reference").state == "Failed"
    assert "activeDeadlineSeconds" in world.condition().message


def test_a_deadline_of_a_resumable_stage_is_followed_by_a_retry(world: World) -> None:
    world.run(until="mask")
    job = world.job("mask")
    world.cluster.run_pod(world.cluster.make_pod(job))
    world.step()
    world.cluster.delete_pods(job)
    world.cluster.end_job(job, failed=("DeadlineExceeded", "was active too long"))
    world.step()
    assert (world.stage("mask").state, world.stage("mask").failures) == ("WaitingForRetry", 1)


def test_a_deadline_before_any_start_is_no_failure(world: World) -> None:
    world.step()
    world.cluster.end_job(world.job("reference"), failed=("DeadlineExceeded", ""))
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason, stage.failures) == ("WaitingForRetry", "NotStarted", 0)


def test_another_release_of_the_jobs_image_is_told(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 0, done_message("reference", key="f" * 64))
    world.step()
    world.step()
    assert (world.stage("reference").reason, world.stage("reference").failures) == (
        "VersionMismatch",
        1,
    )


# Mending


def fail(world: World, stage: str = "reference") -> None:
    world.step()
    world.cluster.finish(world.job(stage), 2, failed_message(stage, "InputError", "is wrong"))
    world.step()
    assert world.stage(stage).state == "Failed"


def test_the_retry_annotation_heals(world: World) -> None:
    fail(world)
    world.annotate("captain", retry="1")
    world.step()
    assert len(created(world)) == 2
    assert world.persona().status.last_handled_retry == "1"
    world.run()
    assert world.condition().status == "True"


def test_a_changed_spec_heals(world: World) -> None:
    fail(world)
    world.edit("captain", baseModel={
        "uri": "hf://org/model", "revision": "abc", "tokenSecretRef": {"name": "hub", "key": "t"},
    })  # fmt: skip
    world.run()
    assert world.condition().status == "True"


def test_changed_settings_heal(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("reference"), 137, "", "OOMKilled")
    world.step()
    assert world.stage("reference").state == "Failed"
    world.settings = settings(profiles={"default": {"memory": "64Gi"}})
    world.run()
    assert world.condition().status == "True"


def test_a_job_that_cannot_start_is_replaced_when_its_profile_changes(world: World) -> None:
    world.step()
    world.edit("captain", execution={"profile": "gpu"})
    plan = world.step()
    assert [item.name for item in plan.actions if isinstance(item, Delete)] == [created(world)[0]]
    assert not any(isinstance(item, Create) for item in plan.actions)
    world.step()
    assert created(world)[1] == f"{created(world)[0]}-2"
    limits = world.job("reference")["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert limits["limits"]["nvidia.com/gpu"] == "1"


def test_a_job_at_work_is_not_replaced_for_that(world: World) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.edit("captain", execution={"profile": "gpu"})
    assert world.step().actions == ()


# Changes of the spec


def test_another_sparsity_reruns_the_mask_and_later(world: World) -> None:
    world.run()
    before = set(created(world))
    old = world.persona().status.revision
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.step()
    assert world.persona().status.serving.revision == old
    assert world.condition().status == "Unknown"
    world.run()
    new = {name.split("-")[1] for name in set(created(world)) - before}
    assert new == {"mask", "recover", "slice", "evaluate"}
    assert world.condition().status == "True"
    assert world.persona().status.serving.revision != old


def test_going_back_runs_nothing(world: World) -> None:
    world.run()
    first = world.persona().status.revision
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    before = created(world)
    world.edit("captain", pruning={"sparsityPercent": 25})
    world.run()
    assert created(world) == before
    assert world.persona().status.serving.revision == first
    assert world.condition().status == "True"


def test_jobs_of_the_former_spec_are_removed(world: World) -> None:
    world.run(until="mask")
    stale = world.job("mask")["metadata"]["name"]
    world.edit("captain", pruning={"sparsityPercent": 50})
    plan = world.step()
    assert Delete("Job", stale) in plan.actions
    assert world.cluster.get("Job", NAMESPACE, stale) is None


def test_another_number_of_replicas_reruns_nothing(world: World) -> None:
    world.run()
    before = created(world)
    world.edit("captain", serving={"replicas": 3})
    world.run()
    assert created(world) == before


def test_another_store_makes_everything_anew(world: World) -> None:
    world.run()
    before = len(created(world))
    world.edit("captain", storage={"uri": "s3://elsewhere/personas"})
    world.run()
    assert len(created(world)) == 2 * before
    assert world.condition().status == "True"


def test_the_manifest_is_immutable_and_former_ones_are_dropped(world: World) -> None:
    world.run()
    first = {item["metadata"]["name"] for item in world.cluster.find("ConfigMap")}
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    second = {item["metadata"]["name"] for item in world.cluster.find("ConfigMap")}
    assert len(first) == len(second) == 1
    assert first != second


# Suspension and queues


def test_suspending_suspends_the_job_and_resuming_goes_on(world: World) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.edit("captain", suspend=True)
    plan = world.step()
    assert SetSuspend(created(world)[0], suspend=True) in plan.actions
    assert (world.stage("reference").state, world.condition().reason) == ("Suspended", "Suspended")
    assert world.condition("Stalled").status == "False"
    world.edit("captain", suspend=False)
    world.run()
    assert created(world)[0].count("-") == 2
    assert world.condition().status == "True"
    assert world.stage("reference").attempts == 1


def test_suspended_before_any_job_starts_none() -> None:
    world = World()
    world.add(persona_document(suspend=True))
    world.run()
    assert created(world) == []
    assert world.condition().reason == "Suspended"


def test_a_job_that_kueue_holds_back_is_queued_not_failed() -> None:
    world = World()
    document = persona_document()
    document["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    world.add(document)
    world.step()
    job = world.job("reference")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    plan = world.step()
    assert plan.actions == ()
    assert (world.stage("reference").state, world.stage("reference").reason) == (
        "Suspended",
        "Queued",
    )
    assert world.condition().status == "Unknown"

    def admit(document: Raw) -> None:
        document["spec"]["suspend"] = False

    world.cluster.update("Job", NAMESPACE, job["metadata"]["name"], admit)
    world.cluster.finish(world.job("reference"), 0, success_message("reference"))
    world.step()
    assert world.stage("reference").state == "Succeeded"


# Blocked pods


def block(world: World, **status: Any) -> None:
    world.step()
    pod = world.cluster.make_pod(world.job("reference"))
    world.cluster.pod_status(pod, phase="Pending", **status)


def waiting(reason: str, message: str = "") -> Raw:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("state", "reason", "told"),
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
def test_what_keeps_a_pod_from_starting_is_told_at_once(
    world: World, state: Raw, reason: str, told: str
) -> None:
    block(world, state=state)
    world.step()
    stage = world.stage("reference")
    assert (stage.state, stage.reason) == ("Pending", reason)
    assert told in stage.message
    assert (world.condition().status, world.condition().reason) == ("False", reason)
    assert world.condition("Stalled").status == "True"
    assert ("Warning", reason) in world.events
    # The cause is mended: the pod starts by itself.
    world.cluster.run_pod(world.cluster.pods_of(world.job("reference"))[0])
    world.step()
    assert world.condition().status == "Unknown"
    assert len(created(world)) == 1


def test_an_unschedulable_pod_is_told_at_once_and_stalls_after_a_while(world: World) -> None:
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
def test_a_job_whose_pod_is_refused(world: World, warning: str, reason: str, grace: int) -> None:
    world.step()
    world.warnings[f"Job/{created(world)[0]}"] = warning
    world.step()
    assert world.stage("reference").reason == reason
    assert "captain-x" not in world.condition().message  # the name changes with every try
    world.cluster.advance(grace)
    world.step()
    assert world.condition("Stalled").status == "True"


def test_a_volume_that_is_missing(world: World) -> None:
    block(world, state=waiting("ContainerCreating"))
    pod = world.cluster.pods_of(world.job("reference"))[0]["metadata"]["name"]
    world.warnings[f"Pod/{pod}"] = 'MountVolume.SetUp failed for "ca" : configmap "ca" not found'
    world.step()
    assert world.condition().reason == "MissingConfigMap"


# Other personas and the store


def twins() -> World:
    world = World()
    for name in ("captain", "twin"):
        document = persona_document(name)
        document["spec"]["persona"] = {"text": "You are a sailor."}
        world.add(document)
    return world


def test_another_persona_waits_for_the_same_work_and_reuses_it() -> None:
    world = twins()
    world.step("captain")
    world.step("twin")
    stage = world.stage("reference", "twin")
    assert (stage.state, stage.reason) == ("Pending", "WaitingForSharedStage")
    assert "stories/captain" in stage.message
    world.run("captain")
    world.run("twin")
    assert all(item.reused for item in world.persona("twin").status.stages)
    assert len(created(world)) == 7
    assert world.condition("Ready", "twin").status == "True"


def test_another_personas_failure_is_not_ones_own() -> None:
    world = twins()
    fail(world)
    world.step("twin")
    assert world.stage("reference", "twin").reason == "Starting"


def test_another_personas_suspended_job_is_not_waited_for() -> None:
    world = twins()
    world.step("captain")
    world.edit("captain", suspend=True)
    world.step("captain")
    world.step("twin")
    assert len(created(world)) == 2
    world.edit("captain", suspend=False)
    world.step("captain")  # goes on only once the other one has ended
    assert world.stage("reference").reason == "WaitingForSharedStage"
    assert world.job("reference", "captain")["spec"]["suspend"] is True


def test_jobs_of_another_store_are_not_shared() -> None:
    world = twins()
    world.edit("twin", storage={"endpoint": "https://elsewhere.example"})
    world.step("captain")
    world.step("twin")
    assert len(created(world)) == 2


def planned(world: World) -> dict[str, str]:
    world.step()
    return {item.name: item.key for item in world.persona().status.stages}


def test_stored_results_are_taken_over_without_any_job() -> None:
    world = World(settings())
    world.add(persona_document(suspend=True))
    keys = planned(world)
    for name, key in keys.items():
        metrics = evaluation_metrics() if name == "evaluate" else {"steps": 5}
        world.stored[(name, key)] = Stored("Present", metrics)
    world.edit("captain", suspend=False)
    world.run()
    assert created(world) == []
    assert all(item.reused for item in world.persona().status.stages)
    assert world.condition().status == "True"


def test_a_job_waits_until_the_store_has_answered() -> None:
    world = World()
    world.add(persona_document(suspend=True))
    keys = planned(world)
    world.stored[("reference", keys["reference"])] = Stored("Pending")
    world.edit("captain", suspend=False)
    world.step()
    assert world.stage("reference").reason == "CheckingStore"
    world.stored[("reference", keys["reference"])] = Stored("Unknown")
    world.step()
    assert len(created(world)) == 1


def test_the_number_of_jobs_at_once_is_bounded() -> None:
    world = World(settings(maxParallelStages=1))
    world.add(persona_document("captain"))
    world.add(persona_document("poet", seed=7, scoring={"firstBlock": 1}))
    world.step("captain")
    plan = world.step("poet")
    assert len(created(world)) == 1
    assert world.stage("reference", "poet").reason == "WaitingForCapacity"
    assert plan.wake_after is not None


# What can't be reconciled at all


@pytest.mark.parametrize(
    ("spec", "reason", "told"),
    [
        ({"pruning": {"sparsityPercent": 99}}, "InvalidSpec", "spec.pruning.sparsityPercent"),
        ({"execution": {"profile": "huge"}}, "UnknownProfile", "(default, gpu)"),
        ({"serving": {"profile": "huge"}}, "UnknownProfile", "spec.serving.profile"),
        ({"storage": {"uri": "file:///data"}}, "StoreNotConfigured", "other nodes can't see"),
    ],
)
def test_a_spec_that_cannot_be_planned(spec: Raw, reason: str, told: str) -> None:
    world = World()
    world.add(persona_document(**spec))
    plan = world.step()
    assert plan.actions == ()
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", reason)
    assert told in ready.message
    assert world.condition("Stalled").status == "True"


def test_no_store_at_all() -> None:
    world = World(settings(store={}))
    world.add(persona_document())
    world.step()
    assert world.condition().reason == "StoreNotConfigured"


def test_what_is_served_stays_while_the_spec_is_wrong(world: World) -> None:
    world.run()
    world.edit("captain", pruning={"sparsityPercent": 99})
    world.step()
    assert world.persona().status.serving.revision is not None
    assert world.cluster.get("Deployment", NAMESPACE, "captain") is not None


def test_the_text_in_a_config_map() -> None:
    world = World()
    reference = {"configMapRef": {"name": "texts", "key": "captain"}}
    world.add(persona_document(persona=reference))
    world.step()
    assert world.condition().reason == "PersonaTextNotFound"
    world.texts["captain"] = PersonaText(text="You are a sailor.")
    world.run()
    assert world.condition().status == "True"
    first = world.persona().status.revision
    world.texts["captain"] = PersonaText(text="You are a poet.")
    world.run()
    assert world.persona().status.revision != first


def test_a_deleted_persona_is_left_alone(world: World) -> None:
    def hold(document: Raw) -> None:
        document["metadata"]["finalizers"] = ["persona-pruner.io/artifacts"]

    world.cluster.update("PersonaModel", NAMESPACE, "captain", hold)
    world.cluster.delete("PersonaModel", NAMESPACE, "captain")
    assert world.plan().actions == ()


def test_a_status_that_makes_no_sense_counts_as_empty(world: World) -> None:
    def spoil(document: Raw) -> None:
        document["status"] = {"stages": "nonsense"}

    world.cluster.update("PersonaModel", NAMESPACE, "captain", spoil)
    world.step()
    assert world.stage("reference").state == "Pending"


def test_times_are_those_of_the_transition(world: World) -> None:
    world.step()
    first = world.condition("Reconciling").last_transition_time
    world.cluster.now += timedelta(seconds=100)
    world.cluster.finish(world.job("reference"), 0, success_message("reference"))
    world.step()
    assert world.condition("Reconciling").last_transition_time == first
    assert world.condition().observed_generation == 1


def test_evaluation_message_of_an_unknown_shape_is_lost(world: World) -> None:
    world.run(until="evaluate")
    world.cluster.finish(world.job("evaluate"), 0, done_message("evaluate", served="sliced"))
    world.step()
    assert world.stage("evaluate").reason == "ResultLost"
