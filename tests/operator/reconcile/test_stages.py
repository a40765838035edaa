"""How far the stages are, from the first Job to the last result."""

from support.operator_world import NAMESPACE, World, persona_document


def test_the_first_stage_starts_and_the_others_wait(world: World) -> None:
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


def test_reconciling_again_changes_nothing(world: World) -> None:
    world.step()
    plan = world.plan()
    assert plan.actions == ()
    assert plan.status == world.persona().status


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


def test_recover_is_not_planned_when_both_of_its_parts_are_disabled() -> None:
    world = World()
    off = {part: {"enabled": False} for part in ("refit", "reconstruct", "fineTune")}
    world.add(persona_document(recovery=off))
    world.run()
    assert "recover" not in [item.name for item in world.persona().status.stages]
    assert world.condition().status == "True"


def test_a_deleted_job_of_a_finished_stage_reruns_nothing(world: World) -> None:
    world.run()
    before = world.created_jobs()
    for job in world.cluster.find("Job"):
        world.cluster.delete("Job", NAMESPACE, job["metadata"]["name"])
    world.run()
    assert world.created_jobs() == before
    assert world.condition().status == "True"


def test_a_job_that_someone_deleted_is_replaced_by_another_attempt(world: World) -> None:
    world.step()
    job = world.job("reference")
    world.cluster.delete("Job", NAMESPACE, job["metadata"]["name"])
    world.step()
    assert world.created_jobs()[-1] == f"{job['metadata']['name']}-2"
    assert world.stage("reference").failures == 0


def test_a_crash_after_creating_the_job_creates_no_second_one(world: World) -> None:
    world.step(crash_after=10)
    assert len(world.created_jobs()) == 1
    world.step()
    assert len(world.created_jobs()) == 1
    assert world.stage("reference").attempts == 1


def test_another_sparsity_reruns_the_mask_and_all_later_stages(world: World) -> None:
    world.run()
    before = set(world.created_jobs())
    old = world.persona().status.revision
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.step()
    assert world.persona().status.serving.revision == old
    assert world.condition().status == "Unknown"
    world.run()
    new = {name.split("-")[1] for name in set(world.created_jobs()) - before}
    assert new == {"mask", "recover", "slice", "evaluate"}
    assert world.condition().status == "True"
    assert world.persona().status.serving.revision != old


def test_returning_to_an_earlier_spec_reruns_nothing(world: World) -> None:
    world.run()
    first = world.persona().status.revision
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    before = world.created_jobs()
    world.edit("captain", pruning={"sparsityPercent": 25})
    world.run()
    assert world.created_jobs() == before
    assert world.persona().status.serving.revision == first
    assert world.condition().status == "True"


def test_another_number_of_replicas_reruns_nothing(world: World) -> None:
    world.run()
    before = world.created_jobs()
    world.edit("captain", serving={"replicas": 3})
    world.run()
    assert world.created_jobs() == before


def test_another_store_reruns_everything(world: World) -> None:
    world.run()
    before = len(world.created_jobs())
    world.edit("captain", storage={"uri": "s3://elsewhere/personas"})
    world.run()
    assert len(world.created_jobs()) == 2 * before
    assert world.condition().status == "True"
