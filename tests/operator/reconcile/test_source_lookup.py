"""Sources that the spec doesn't pin are looked up by a Job before anything is planned."""

import json
from typing import Any

import pytest

from persona_jobs.pipeline import graph, pins
from support.fake_cluster import Raw, failed_message, lookup_message, success_message
from support.operator_world import COMMIT, NAMESPACE, World, laptop_spec, persona_document, settings

MODEL, OTHER = "a" * 40, "b" * 40
ETAG = f"etag:{'1' * 64}"
QUESTIONS = {"questionFiles": [{"uri": "s3://data/questions.json", "revision": "v1"}]}
STAGE_COUNT = 7


def unpinned(name: str = "captain", **spec: Any) -> Raw:
    given: Raw = {"baseModel": {"uri": "hf://org/model"}, "evaluation": QUESTIONS, **spec}
    return persona_document(name, **given)


def answer(model: str = MODEL, questions: str = ETAG) -> str:
    return lookup_message(**{"baseModel": model, "evaluation.questionFiles[0]": questions})


@pytest.fixture
def world() -> World:
    made = World()
    made.add(unpinned())
    return made


def messages(stage: str) -> str:
    return answer() if stage == "resolve" else success_message(stage)


def look_up(world: World, message: str) -> None:
    """Let the Job that looks up the sources end with a message, and plan the stages."""
    world.step()
    world.cluster.finish(world.job("resolve"), 0, message)
    world.step()
    world.step()


def stages(world: World) -> dict[str, str]:
    return {item.name: item.key for item in world.persona().status.stages}


def test_planning_waits_for_the_lookup(world: World) -> None:
    world.step()
    assert world.created_jobs() == [world.job("resolve")["metadata"]["name"]]
    status = world.persona().status
    assert status.stages == []
    assert (status.phase, status.resolution.state) == ("Resolve", "Pending")
    assert world.condition().status == "Unknown"
    assert "resolve" in world.condition().message
    assert world.condition("Reconciling").status == "True"


def test_the_keys_are_those_of_a_laptop(world: World) -> None:
    look_up(world, answer())
    found = {"baseModel": MODEL, "evaluation.questionFiles[0]": ETAG}
    assert stages(world) == graph.keys(laptop_spec(unpinned(), **found))
    mounted = json.loads(world.cluster.find("ConfigMap")[0]["data"]["manifest.json"])["spec"]
    assert mounted["baseModel"] == {"uri": "hf://org/model", "revision": MODEL}
    assert mounted["evaluation"]["questionFiles"][0]["revision"] == f"v1-{ETAG}"


def test_the_status_records_what_every_source_was_resolved_to(world: World) -> None:
    look_up(world, answer())
    recorded = {item.name: item.revision for item in world.persona().status.sources}
    assert recorded["baseModel"] == MODEL
    assert recorded["evaluation.questionFiles[0]"] == f"v1-{ETAG}"
    assert recorded["instructions"].startswith("sha256:")
    assert set(recorded) == {
        "baseModel", "instructions", "referencePersonas", "evaluation.questionFiles[0]",
    }  # fmt: skip


def test_a_pinned_spec_needs_no_lookup() -> None:
    world = World()
    pinned = {"uri": "s3://data/questions.json", "revision": f"v1-{ETAG}"}
    inline = {"uri": f"hf://org/model@{COMMIT}"}
    world.add(unpinned(baseModel=inline, evaluation={"questionFiles": [pinned]}))
    world.run()
    assert len(world.created_jobs()) == STAGE_COUNT
    assert world.persona().status.resolution is None
    on_a_laptop = unpinned(
        baseModel={"uri": "hf://org/model", "revision": COMMIT},
        evaluation={"questionFiles": [pinned]},
    )
    assert stages(world) == graph.keys(laptop_spec(on_a_laptop))


def test_a_finished_persona_is_looked_up_no_more(world: World) -> None:
    world.run(messages=messages)
    assert world.condition().status == "True"
    assert len(world.created_jobs()) == 1 + STAGE_COUNT
    before, kept = world.created_jobs(), world.persona().status
    assert world.cluster.find("Job") == []
    world.edit("captain", serving={"replicas": 2})
    world.run(messages=messages)
    assert world.created_jobs() == before
    assert world.persona().status.sources == kept.sources


def test_what_a_finished_persona_was_made_from_stays_through_releases(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(messages=messages)
    before, made = world.persona().status.sources, world.created_jobs()
    monkeypatch.setattr(pins, "builtin_digest", lambda _name: f"sha256:{'9' * 64}")
    world.run(messages=messages)
    assert world.persona().status.sources == before
    assert world.created_jobs() == made


@pytest.mark.parametrize("change", ["spec", "retry"])
def test_a_changed_spec_or_a_retry_looks_up_anew(world: World, change: str) -> None:
    world.run(messages=messages)
    before = stages(world)
    if change == "spec":
        world.edit("captain", pruning={"sparsityPercent": 50})
    else:
        world.annotate("captain", retry="1")
    world.step()
    assert world.created_jobs()[-1].startswith("captain-resolve-")
    assert stages(world) == before, "what is finished stays in the status meanwhile"
    assert world.condition("Available").status == "True"
    look_up(world, answer(model=OTHER))
    assert stages(world)["reference"] != before["reference"]
    world.run(messages=messages)
    assert world.condition().status == "True"


def test_the_same_answer_reruns_only_what_the_change_affects(world: World) -> None:
    world.run(messages=messages)
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run(messages=messages)
    again = [name.split("-")[1] for name in world.created_jobs()[1 + STAGE_COUNT :]]
    assert again == ["resolve", "mask", "recover", "slice", "evaluate"]


def test_a_wrong_source_stalls_and_says_which(world: World) -> None:
    world.step()
    message = failed_message(
        "resolve",
        "InputError",
        "hf://org/model does not exist on the hub, or it is private",
        "Correct the name",
        "spec.baseModel",
    )
    world.cluster.finish(world.job("resolve"), 2, message)
    world.step()
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", "InvalidInput")
    assert "spec.baseModel: hf://org/model does not exist" in ready.message
    assert "Correct the name." in ready.message
    world.step()
    assert len(world.created_jobs()) == 1, "exit code 2 is not retried"
    assert ("Warning", "StageFailed") in world.events


def test_a_server_that_is_down_is_asked_again_with_back_off(world: World) -> None:
    failure = failed_message("resolve", "StoreError", "hf://org/model can't be fetched now")
    for attempt in (1, 2):
        world.step()
        world.cluster.finish(world.job("resolve"), 1, failure)
        world.step()
        status = world.persona().status.resolution
        assert (status.state, status.attempts) == ("WaitingForRetry", attempt)
        world.step()
        assert len(world.created_jobs()) == attempt, "not before the back-off is over"
        world.cluster.advance(60)
    world.run(messages=messages)
    assert world.condition().status == "True"


def test_an_answer_that_is_lost_is_asked_for_again(world: World) -> None:
    world.step()
    world.cluster.finish(world.job("resolve"), 0, answer(), pod_kept=False)
    world.cluster.advance(20)
    world.step()
    assert world.persona().status.resolution.state == "WaitingForRetry"
    world.cluster.advance(60)
    world.run(messages=messages)
    assert world.condition().status == "True"


def test_what_is_served_changes_while_the_sources_are_looked_up(world: World) -> None:
    world.run(messages=messages)
    world.edit("captain", pruning={"sparsityPercent": 50}, serving={"replicas": 3})
    world.step()
    deployment = world.cluster.get("Deployment", NAMESPACE, "captain")
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 3


def test_running_stages_continue_and_obey_suspension(world: World) -> None:
    look_up(world, answer())
    assert world.job("reference")
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.step()
    assert world.job("reference")["spec"].get("suspend") is not True
    world.edit("captain", suspend=True)
    world.step()
    assert world.job("reference")["spec"]["suspend"] is True
    assert world.condition().reason == "Suspended"
    world.edit("captain", suspend=False)
    world.run(messages=messages)
    assert world.condition().status == "True"
    assert len([name for name in world.created_jobs() if "-reference-" in name]) == 1


def test_the_lookup_gets_no_device_and_little_memory() -> None:
    claim = {"name": "gpu", "resourceClaimTemplateName": "one"}
    template = {
        "spec": {
            "resourceClaims": [claim],
            "nodeSelector": {"pool": "gpu"},
            "containers": [{"name": "stage", "resources": {"claims": [{"name": "gpu"}]}}],
        }
    }
    large = {"cpu": "8", "memory": "64Gi", "gpus": 2, "podTemplate": template}
    world = World(settings(profiles={"default": large}))
    world.add(unpinned())
    world.step()
    pod = world.job("resolve")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "512Mi"},
        "limits": {"memory": "512Mi"},
    }
    assert "resourceClaims" not in pod
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert container["command"] == ["python", "-m", "persona_jobs.resolve"]


def test_the_lookup_and_the_stages_get_each_sources_own_credentials() -> None:
    world = World()
    endpoint = {"endpoint": "https://s3.example", "credentialsSecretRef": {"name": "questions"}}
    questions = [{"uri": "s3://data/a.json"}, {"uri": "s3://data/b.json", **endpoint}]
    model = {"uri": "hf://org/model", "credentialsSecretRef": {"name": "hub"}}
    card = {"uri": "s3://data/captain.png", "credentialsSecretRef": {"name": "cards"}}
    sources = {"baseModel": model, "evaluation": {"questionFiles": questions}}
    world.add(unpinned(persona={"card": card}, **sources))
    wanted = [
        {"secretRef": {"name": "store"}},
        {"prefix": "CARD_", "secretRef": {"name": "cards"}},
        {"prefix": "BASE_MODEL_", "secretRef": {"name": "hub"}},
        {"prefix": "QUESTION_FILES_1_", "secretRef": {"name": "questions"}},
    ]
    world.step()
    found = {f"evaluation.questionFiles[{index}]": ETAG for index in range(2)}
    found["persona.card"] = ETAG
    lookup = world.job("resolve")
    world.cluster.finish(lookup, 0, lookup_message(baseModel=MODEL, **found))
    world.step()
    world.step()
    for job in (lookup, world.job("reference")):
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == wanted
    mounted = json.loads(world.cluster.find("ConfigMap")[-1]["data"]["manifest.json"])["spec"]
    assert mounted["persona"] == {"card": {**card, "revision": ETAG, "user": "you"}, "examples": []}
    assert "hub" not in str(world.persona().status)
    assert "s3.example" not in str(world.persona().status)


def test_an_administrator_may_give_the_lookup_a_profile() -> None:
    world = World(settings(profiles={"default": {"memory": "64Gi"}, "resolve": {"memory": "2Gi"}}))
    world.add(unpinned())
    world.step()
    [container] = world.job("resolve")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
