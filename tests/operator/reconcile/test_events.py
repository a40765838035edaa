"""The Events that `kubectl describe` shows of a PersonaModel."""

import pytest

from support.fake_cluster import Raw
from support.gated_persona import gated_world, messages
from support.operator_world import NAMESPACE, World


@pytest.fixture
def world() -> World:
    return gated_world()


def work(world: World, seconds: int, score: float) -> None:
    """Let every Job take that many seconds, until nothing is left to do."""
    for _ in range(20):
        world.step()
        jobs = world.cluster.open_jobs()
        pods = [world.cluster.make_pod(job) for job in jobs]
        world.cluster.advance(seconds)
        for job, pod in zip(jobs, pods, strict=True):
            world.cluster.run_pod(pod)
            stage = job["metadata"]["labels"]["persona-pruner.io/stage"]
            world.cluster.finish(job, 0, messages(score)(stage))
    world.step()


def told(world: World, *reasons: str) -> list[str]:
    return [text for text in world.event_messages if text.partition(":")[0] in reasons]


def test_events_tell_a_personas_way_to_its_service(world: World) -> None:
    work(world, 132, 80)
    world.cluster.roll_out(NAMESPACE, "captain")
    world.step()
    revision = world.persona().status.revision
    starts = [f"StageStarted: Job {name} starts stage {name.split('-')[1]}."
              for name in world.created_jobs()]  # fmt: skip
    assert told(world, "StageStarted") == starts
    assert len(starts) == 7
    assert told(world, "StageSucceeded")[3] == "StageSucceeded: Stage mask finished in 132 s."
    assert told(world, "GatePassed", "RollingOut", "RevisionServed", "Ready") == [
        f"GatePassed: Revision {revision} passed its gate: voice: personaScore 80 is not below "
        "min 60.",
        f"RollingOut: Waiting for the serving pods of revision {revision}.",
        f"Ready: Revision {revision} is served at http://captain.stories.svc:8000.",
        f"RevisionServed: Revision {revision} takes traffic.",
    ]


def test_events_tell_why_a_revision_is_not_served_and_why_one_was_rolled_back(
    world: World,
) -> None:
    work(world, 1, 80)
    world.cluster.roll_out(NAMESPACE, "captain")
    world.step()
    first = world.persona().status.revision
    world.edit("captain", pruning={"sparsityPercent": 50})
    work(world, 1, 40)
    (failed,) = told(world, "GateFailed")
    assert "personaScore 40 is below min 60" in failed
    assert f"Revision {first} keeps serving" in failed
    world.edit("captain", pruning={"sparsityPercent": 40})
    work(world, 1, 90)

    def stuck(document: Raw) -> None:
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        generation = document["metadata"]["generation"]
        document["status"] = {"observedGeneration": generation, "conditions": [late]}

    world.cluster.update("Deployment", NAMESPACE, "captain", stuck)
    for _ in range(3):
        world.step()
    (rolled_back,) = told(world, "RolloutFailed")
    assert f"The former pods of revision {first} serve again" in rolled_back
    assert "didn't become ready in time" in rolled_back


def test_an_event_tells_that_a_stage_waits_for_room_on_the_nodes(world: World) -> None:
    world.step()
    pod = world.cluster.make_pod(world.job("reference"))
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    world.cluster.pod_status(pod, phase="Pending", conditions=[condition])
    for _ in range(3):
        world.step()
    (waits,) = told(world, "WaitingForResources")
    assert "3 Insufficient nvidia.com/gpu" in waits
