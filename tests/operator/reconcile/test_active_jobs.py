"""Jobs that run, wait or are suspended."""

from persona_operator.reconcile import Create, Delete, SetSuspend
from support.fake_cluster import Raw, success_message
from support.operator_world import NAMESPACE, World, persona_document


def test_a_running_pod_is_shown(world: World) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.step()
    assert world.stage("reference").state == "Running"
    assert world.condition().message == "Stage reference is running."


def test_a_job_that_has_not_started_is_replaced_when_its_profile_changes(world: World) -> None:
    world.edit("captain", compute={"dtype": "Float32"})
    world.step()
    world.edit("captain", execution={"profile": "gpu"})
    plan = world.step()
    assert [item.name for item in plan.actions if isinstance(item, Delete)] == [
        world.created_jobs()[0]
    ]
    assert not any(isinstance(item, Create) for item in plan.actions)
    world.step()
    assert world.created_jobs()[1] == f"{world.created_jobs()[0]}-2"
    limits = world.job("reference")["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert limits["limits"]["nvidia.com/gpu"] == "1"


def test_a_running_job_is_not_replaced_when_its_profile_changes(world: World) -> None:
    world.edit("captain", compute={"dtype": "Float32"})
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.edit("captain", execution={"profile": "gpu"})
    assert world.step().actions == ()


def test_suspending_the_persona_suspends_its_job_and_resuming_resumes_it(world: World) -> None:
    world.step()
    world.cluster.run_pod(world.cluster.make_pod(world.job("reference")))
    world.edit("captain", suspend=True)
    plan = world.step()
    assert SetSuspend(world.created_jobs()[0], suspend=True) in plan.actions
    assert (world.stage("reference").state, world.condition().reason) == ("Suspended", "Suspended")
    assert world.condition("Stalled").status == "False"
    world.edit("captain", suspend=False)
    world.run()
    assert world.created_jobs()[0].count("-") == 2
    assert world.condition().status == "True"
    assert world.stage("reference").attempts == 1


def test_a_job_that_someone_else_suspended_is_left_alone(world: World) -> None:
    world.step()
    name = world.created_jobs()[0]

    def suspend(document: Raw) -> None:
        document["spec"]["suspend"] = True

    world.cluster.update("Job", NAMESPACE, name, suspend)
    assert world.step().actions == ()
    assert (world.stage("reference").state, world.condition().reason) == (
        "Suspended",
        "JobSuspended",
    )
    assert name in world.condition().message
    world.edit("captain", suspend=True)
    world.step()
    world.edit("captain", suspend=False)
    assert world.step().actions == ()
    assert world.job("reference")["spec"]["suspend"] is True


def test_a_suspended_persona_starts_no_job() -> None:
    world = World()
    world.add(persona_document(suspend=True))
    world.run()
    assert world.created_jobs() == []
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
