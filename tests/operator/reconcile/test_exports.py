"""Exports: made after the evaluation, without holding back traffic."""

from support.fake_cluster import Raw, failed_message
from support.operator_world import NAMESPACE, World, persona_document

GGUF = [{"format": "GGUF", "quantization": "Q4_0"}]


def world_with(exports: list[Raw]) -> World:
    world = World()
    world.add(persona_document(exports=exports))
    return world


def artifacts(world: World) -> dict[str, str]:
    return {item.name: item.key for item in world.persona().status.revisions[0].artifacts}


def test_an_export_is_one_more_job_and_an_artifact_of_the_revision():
    world = world_with(GGUF)
    world.run()
    keys = {stage.name: stage.key for stage in world.persona().status.stages}
    assert list(keys)[-2:] == ["evaluate", "export"]
    assert artifacts(world) == {
        "checkpoint": keys["slice"],
        "evaluation": keys["evaluate"],
        "export": keys["export"],
    }
    assert world.condition("Ready").status == "True"


def test_an_export_added_later_runs_alone_and_belongs_to_the_same_revision():
    world = world_with([])
    world.run()
    before, revision = len(world.created_jobs()), world.persona().status.revisions[0].id
    assert "export" not in artifacts(world)
    world.edit("captain", exports=GGUF)
    world.run()
    assert len(world.created_jobs()) == before + 1
    assert [item.id for item in world.persona().status.revisions] == [revision]
    assert artifacts(world)["export"] == world.stage("export").key


def test_a_failed_export_stalls_but_the_revision_takes_traffic():
    world = world_with(GGUF)
    world.run(until="export")
    world.cluster.finish(world.job("export"), 2, failed_message("export", "InputError", "is wrong"))
    world.step()
    world.cluster.roll_out(NAMESPACE, "captain")
    world.step()
    assert world.condition("Available").status == "True"
    assert world.condition("Ready").status == "False"
    assert "Stage export" in world.condition("Ready").message
    assert "export" not in artifacts(world)
