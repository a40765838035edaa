"""Stages whose result several PersonaModels need."""

import dataclasses

from persona_operator.reconcile import Create, Delete, Job, Observed, Plan, Stored, reconcile
from support.fake_cluster import success_message
from support.operator_world import NAMESPACE, World, persona_document


def personas(*names: str) -> World:
    world = World()
    for name in names:
        world.add(persona_document(name))
    return world


def reason(world: World, name: str) -> str:
    return str(world.stage("reference", name).reason)


def test_a_job_that_needs_a_person_is_not_awaited() -> None:
    world = personas("captain", "cook")
    world.step("captain")
    pod = world.cluster.make_pod(world.job("reference", "captain"))
    missing = {"reason": "CreateContainerConfigError", "message": 'secret "store" not found'}
    world.cluster.pod_status(pod, phase="Pending", state={"waiting": missing})
    world.step("cook")
    assert reason(world, "cook") == "Starting"
    assert len(world.created_jobs()) == 2
    world.step("captain")
    assert world.condition("Stalled", "captain").status == "True"
    assert "computes it meanwhile" in world.stage("reference", "captain").message


def test_a_job_that_does_not_start_is_awaited_for_a_while_by_one_after_the_other() -> None:
    world = personas("captain", "cook", "poet")
    world.step("captain")
    plan = world.step("cook")
    assert (reason(world, "cook"), plan.wake_after) == ("WaitingForSharedStage", 300)
    world.cluster.advance(300)
    world.step("cook")
    world.step("poet")
    assert reason(world, "cook") == "Starting"
    assert reason(world, "poet") == "WaitingForSharedStage"  # for the cook's young Job
    assert len(world.created_jobs()) == 2


def test_a_running_job_is_awaited_and_jobs_that_have_not_started_give_way() -> None:
    world = personas("captain", "cook")
    world.step("captain")
    world.cluster.advance(300)
    world.step("cook")
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference", "cook")))
    world.cluster.advance(10 * 3600)
    plan = world.step("captain")
    mine = world.stage("reference", "captain")
    assert Delete("Job", mine.job) in plan.actions
    assert mine.reason == "WaitingForSharedStage"
    world.cluster.finish(world.job("reference", "cook"), 0, success_message("reference"))
    world.step("captain")
    assert world.stage("reference", "captain").reused
    assert len([name for name in world.created_jobs() if "reference" in name]) == 2


def test_a_job_that_has_not_started_is_deleted_once_the_result_exists() -> None:
    world = personas("captain", "cook")
    world.step("captain")
    world.cluster.advance(300)
    world.step("cook")
    world.cluster.finish(world.job("reference", "cook"), 0, success_message("reference"))
    plan = world.step("captain")
    assert world.stage("reference", "captain").state == "Succeeded"
    assert [item.name for item in plan.actions if isinstance(item, Delete)] == [
        world.created_jobs()[0]
    ]


def beside(world: World, foreign: Job, stored: Stored | None = None) -> Plan:
    at = (foreign.stage, foreign.key)
    observed = Observed(jobs=(foreign,), active_jobs=1, stored={at: stored} if stored else {})
    return reconcile(world.persona("cook"), observed, world.settings, world.cluster.now)


def foreign_job(*, complete: bool) -> Job:
    world = personas("project-x")
    world.step("project-x")
    if complete:
        world.cluster.finish(world.job("reference", "project-x"), 0, success_message("reference"))
    job = next(item for item in world.jobs() if item.stage == "reference")
    return dataclasses.replace(job, namespace="team-x")


def test_messages_name_no_persona_of_another_namespace() -> None:
    world = personas("cook")
    status = beside(world, foreign_job(complete=False)).status
    assert status.stages[0].reason == "WaitingForSharedStage"
    text = status.model_dump_json()
    assert "team-x" not in text
    assert "project-x" not in text


def test_a_job_of_another_namespace_is_not_believed_but_the_store_is() -> None:
    world = personas("cook")
    job = foreign_job(complete=True)
    plan = beside(world, job)
    assert [item.manifest["metadata"]["namespace"] for item in plan.actions
            if isinstance(item, Create)] == [NAMESPACE]  # fmt: skip
    stages = beside(world, job, Stored("Present")).status.stages
    assert (stages[0].state, stages[0].reused) == ("Succeeded", True)
    # An owner reference with the PersonaModel's own uid makes no difference.
    forged = dataclasses.replace(job, owner_uid=world.persona("cook").owner.uid)
    assert beside(world, forged).status.stages[0].state == "Pending"
