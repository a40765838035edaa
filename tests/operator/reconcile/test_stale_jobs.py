"""Jobs that are no longer needed."""

from persona_operator.reconcile import Delete
from support.operator_world import NAMESPACE, World


def test_jobs_of_the_former_spec_are_deleted(world: World) -> None:
    world.run(until="mask")
    stale = world.job("mask")["metadata"]["name"]
    world.edit("captain", pruning={"sparsityPercent": 50})
    plan = world.step()
    assert Delete("Job", stale) in plan.actions
    assert world.cluster.get("Job", NAMESPACE, stale) is None
