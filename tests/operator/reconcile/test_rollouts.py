"""When serving pods are replaced, and when they stay."""

import json
from typing import Any

import pytest

from persona_operator.reconcile import Apply
from persona_operator.reconcile.times import parse_time
from support.fake_cluster import Raw, success_message
from support.operator_world import NAMESPACE, World, persona_document, settings

NEXT_RELEASE: dict[str, Any] = {
    "jobsImage": "registry.example/jobs:2",
    "vllmImage": "registry.example/vllm:2",
    "imagePullPolicy": "Always",
    "env": {"HTTPS_PROXY": "http://proxy:8080"},
    "profiles": {"default": {"cpu": "2", "memory": "8Gi", "podAnnotations": {"team": "voices"}}},
}


def served(world: World) -> Raw:
    """Let a PersonaModel be served, and return its Deployment."""
    world.run()
    return deployment(world)


def deployment(world: World) -> Raw:
    found = world.cluster.get("Deployment", NAMESPACE, "captain")
    assert found is not None
    return found


def template(world: World) -> Any:
    return deployment(world)["spec"]["template"]


def image(world: World) -> str:
    return str(template(world)["spec"]["containers"][0]["image"])


def kinds(world: World) -> list[str]:
    return [action.manifest["kind"] for action in world.plan().actions if isinstance(action, Apply)]


@pytest.mark.parametrize("engine", ["Transformers", "VLLM"])
def test_another_release_and_other_profiles_replace_no_serving_pods(engine: str) -> None:
    world = World()
    world.add(persona_document(serving={"engine": engine}))
    before = served(world)
    world.settings = settings(**NEXT_RELEASE)
    assert world.step().actions == ()
    assert deployment(world) == before
    assert world.condition().status == "True"


def test_always_rolls_out_at_once(world: World) -> None:
    world.edit("captain", serving={"updateStrategy": "Always"})
    served(world)
    world.settings = settings(**NEXT_RELEASE)
    world.run()
    assert image(world) == "registry.example/jobs:2"
    assert world.plan().actions == ()
    assert world.condition().status == "True"


def test_a_switch_to_always_rolls_out_what_has_waited(world: World) -> None:
    served(world)
    world.settings = settings(**NEXT_RELEASE)
    world.edit("captain", serving={"updateStrategy": "Always"})
    world.run()
    assert image(world) == "registry.example/jobs:2"


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"maxContextTokens": 1024}},
        {"serving": {"profile": "default"}},
        {"serving": {"engine": "VLLM", "image": "registry.example/jobs:2"}},
        {"pruning": {"sparsityPercent": 50}},
    ],
)
def test_a_change_by_the_user_takes_the_administrators_changes_along(
    world: World, change: Raw
) -> None:
    served(world)
    world.settings = settings(**NEXT_RELEASE)
    world.edit("captain", **change)
    world.run()
    assert image(world) == "registry.example/jobs:2"
    assert world.plan().actions == ()


def test_the_retry_annotation_takes_the_administrators_changes_along(world: World) -> None:
    served(world)
    world.settings = settings(**NEXT_RELEASE)
    world.annotate("captain", retry="1")
    world.run()
    assert image(world) == "registry.example/jobs:2"


@pytest.mark.parametrize("serving", [{"replicas": 3}, {"autoscaling": {"maxReplicas": 3}}])
def test_another_number_of_replicas_keeps_the_pods(world: World, serving: Raw) -> None:
    before = served(world)["spec"]["template"]
    world.settings = settings(**NEXT_RELEASE)
    world.edit("captain", serving=serving)
    world.run()
    assert template(world) == before
    assert deployment(world)["spec"].get("replicas") in {3, None} or "autoscaling" in serving


def test_a_change_by_others_is_corrected_to_the_recorded_template(world: World) -> None:
    before = served(world)["spec"]["template"]

    def edit(document: Raw) -> None:
        document["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"

    world.cluster.update("Deployment", NAMESPACE, "captain", edit)
    world.settings = settings(**NEXT_RELEASE)
    assert kinds(world) == []
    world.resync = True
    assert kinds(world) == ["Service", "Deployment"]
    world.step()
    assert template(world) == before


def test_a_deleted_deployment_comes_back_with_the_recorded_template(world: World) -> None:
    before = served(world)["spec"]["template"]
    world.settings = settings(**NEXT_RELEASE)
    world.cluster.delete("Deployment", NAMESPACE, "captain")
    world.step()
    assert template(world) == before


def test_pods_that_never_took_traffic_follow_the_administrator(world: World) -> None:
    """A first image that can't be pulled is fixed by naming another one."""
    for _ in range(20):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, 0, _message(job))
    assert image(world) == "registry.example/jobs:1"
    world.settings = settings(**NEXT_RELEASE)
    world.step()
    assert image(world) == "registry.example/jobs:2"


def _message(job: Raw) -> str:
    return success_message(job["metadata"]["labels"]["persona-pruner.io/stage"])


def test_a_change_taken_back_brings_the_recorded_template_back(world: World) -> None:
    before = served(world)["spec"]["template"]
    world.settings = settings(**NEXT_RELEASE)
    world.edit("captain", serving={"maxContextTokens": 1024})
    world.step()
    assert template(world) != before
    world.edit("captain", serving={})
    world.step()
    assert template(world) == before


def test_a_recorded_template_that_makes_no_sense_is_built_again(world: World) -> None:
    served(world)

    def spoil(document: Raw) -> None:
        document["status"]["serving"]["template"] = "{"

    world.cluster.update("PersonaModel", NAMESPACE, "captain", spoil)
    world.settings = settings(**NEXT_RELEASE)
    world.step()
    assert image(world) == "registry.example/jobs:2"


def test_the_status_holds_the_template_that_takes_traffic(world: World) -> None:
    served(world)
    serving = world.persona().status.serving
    assert serving is not None
    assert json.loads(serving.template or "") == template(world)


def exceed_deadline(world: World) -> None:
    """The pods of the newest template never become ready; the former ones stay."""

    def stuck(document: Raw) -> None:
        document["status"] = {
            "observedGeneration": document["metadata"]["generation"],
            "replicas": 2,
            "updatedReplicas": 1,
            "readyReplicas": 1,
            "availableReplicas": 1,
            "conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            ],
        }

    world.cluster.update("Deployment", NAMESPACE, "captain", stuck)


def start_rollout(world: World) -> None:
    """Reconcile until the Deployment has changed, without any pod becoming ready."""
    for _ in range(20):
        world.step()
        for job in world.cluster.open_jobs():
            world.cluster.finish(job, 0, _message(job))


CHANGES = [{"pruning": {"sparsityPercent": 50}}, {"serving": {"image": "registry.example/bad:1"}}]


def fail_rollout(world: World, change: Raw) -> tuple[Raw, Raw]:
    """Serve a PersonaModel, then let a change fail; return the two pod templates."""
    before = served(world)["spec"]["template"]
    world.settings = settings(**NEXT_RELEASE)
    world.edit("captain", **change)
    start_rollout(world)
    tried = template(world)
    assert tried != before
    exceed_deadline(world)
    world.step()
    return before, tried


@pytest.mark.parametrize("change", CHANGES)
def test_pods_that_do_not_become_ready_are_taken_back(world: World, change: Raw) -> None:
    before, _ = fail_rollout(world, change)
    assert template(world) == before
    status = world.persona().status
    assert status.serving is not None
    good, bad = status.serving.revision, status.revision
    assert deployment(world)["metadata"]["labels"]["persona-pruner.io/revision"] == good
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", "RolloutFailed")
    assert ready.message.startswith(
        f"The roll-out of revision {bad} failed: The serving pods didn't become ready in time. The "
        f"former pods of revision {good} serve again."
    )
    assert world.condition("Stalled").status == "True"
    assert world.condition("Available").message == f"Revision {good} takes traffic."
    assert world.events.count(("Warning", "RolloutFailed")) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_failed_rollout_is_not_tried_again_by_itself(world: World, change: Raw) -> None:
    before, _ = fail_rollout(world, change)
    world.run()
    world.settings = settings(**{**NEXT_RELEASE, "jobsImage": "registry.example/jobs:3"})
    world.resync = True
    world.step()
    world.step()
    assert template(world) == before
    assert world.condition().reason == "RolloutFailed"
    assert world.events.count(("Warning", "RolloutFailed")) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_the_retry_annotation_tries_a_failed_rollout_again(world: World, change: Raw) -> None:
    _, tried = fail_rollout(world, change)
    world.run()
    world.annotate("captain", retry="1")
    world.step()
    assert template(world) == tried
    assert world.condition().reason == "RollingOut"
    world.run()
    assert world.condition().status == "True"
    serving = world.persona().status.serving
    assert serving is not None
    assert serving.failed_rollout is None


def test_a_failed_rollout_ends_when_the_user_takes_the_change_back(world: World) -> None:
    before, _ = fail_rollout(world, {"serving": {"image": "registry.example/bad:1"}})
    world.run()
    world.edit("captain", serving={})
    world.run()
    assert template(world) == before
    assert world.condition().status == "True"


def test_a_failed_release_is_taken_back_until_the_next_one(world: World) -> None:
    world.edit("captain", serving={"updateStrategy": "Always"})
    before = served(world)["spec"]["template"]
    world.settings = settings(**NEXT_RELEASE)
    world.step()
    exceed_deadline(world)
    world.step()
    assert template(world) == before
    assert world.condition().reason == "RolloutFailed"
    world.run()
    world.settings = settings(**{**NEXT_RELEASE, "jobsImage": "registry.example/jobs:3"})
    world.run()
    assert image(world) == "registry.example/jobs:3"
    assert world.condition().status == "True"


def test_a_first_rollout_has_nothing_to_go_back_to(world: World) -> None:
    start_rollout(world)
    before = template(world)
    exceed_deadline(world)
    world.step()
    assert template(world) == before
    assert world.condition().reason == "RolloutStuck"


def test_pods_that_took_traffic_are_never_taken_back(world: World) -> None:
    before = served(world)["spec"]["template"]
    exceed_deadline(world)
    world.step()
    assert template(world) == before
    assert world.condition().reason == "RolloutStuck"


def test_a_rollout_waits_for_others_and_keeps_the_former_pods(world: World) -> None:
    before = served(world)
    world.settings = settings(maxParallelRollouts=2)
    world.rollouts_ahead = 2
    world.edit("captain", serving={"maxContextTokens": 1024})
    plan = world.step()
    assert (plan.rollout, plan.wake_after) == ("Waits", 5)
    assert deployment(world) == before
    ready = world.condition()
    assert (ready.status, ready.reason) == ("Unknown", "WaitingForRollout")
    assert "at most 2 replace their serving pods at once" in ready.message
    assert world.condition("Available").status == "True"
    since = world.persona().status.serving.rollout_waiting_since
    assert parse_time(since) == world.cluster.now.replace(microsecond=0)
    world.cluster.advance(100)
    world.edit("captain", serving={"maxContextTokens": 2048})
    world.step()
    # The time decides who is next after the operator's restart.
    assert world.persona().status.serving.rollout_waiting_since == since
    world.rollouts_ahead = 1
    assert world.step().rollout == "Starts"
    assert world.persona().status.serving.rollout_waiting_since is None
    assert template(world) != before["spec"]["template"]
    assert world.step().rollout is None


def test_a_first_rollout_and_former_pods_wait_for_nobody() -> None:
    world = World(settings(maxParallelRollouts=1))
    world.add(persona_document())
    world.rollouts_ahead = 9
    before = served(world)["spec"]["template"]
    world.rollouts_ahead = 0
    world.edit("captain", serving={"image": "registry.example/bad:1"})
    world.step()
    exceed_deadline(world)
    world.rollouts_ahead = 9
    world.step()
    assert template(world) == before
