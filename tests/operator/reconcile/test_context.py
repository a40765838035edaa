"""PersonaModels that can't be planned."""

import json

import pytest

from persona_operator.reconcile import PersonaText
from support.fake_cluster import Raw
from support.operator_world import NAMESPACE, World, persona_document, settings


@pytest.mark.parametrize(
    ("spec", "reason", "expected"),
    [
        ({"pruning": {"sparsityPercent": 99}}, "InvalidSpec", "spec.pruning.sparsityPercent"),
        ({"execution": {"profile": "huge"}}, "UnknownProfile", "(default, gpu)"),
        ({"serving": {"profile": "huge"}}, "UnknownProfile", "spec.serving.profile"),
        ({"storage": {"uri": "file:///data"}}, "StoreNotConfigured", "other nodes can't see"),
    ],
)
def test_a_spec_that_cannot_be_planned_is_reported(spec: Raw, reason: str, expected: str) -> None:
    world = World()
    world.add(persona_document(**spec))
    plan = world.step()
    assert plan.actions == ()
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", reason)
    assert expected in ready.message
    assert world.condition("Stalled").status == "True"


def test_a_missing_store_is_reported() -> None:
    world = World(settings(store={}))
    world.add(persona_document())
    world.step()
    assert world.condition().reason == "StoreNotConfigured"


def test_the_served_revision_stays_while_the_spec_is_invalid(world: World) -> None:
    world.run()
    world.edit("captain", pruning={"sparsityPercent": 99})
    world.step()
    assert world.persona().status.serving.revision is not None
    assert world.cluster.get("Deployment", NAMESPACE, "captain") is not None


def test_the_text_may_come_from_a_config_map() -> None:
    world = World()
    examples = [{"turns": [{"query": "Who are you?", "answer": "A sailor."}]}]
    reference = {"configMapRef": {"name": "texts", "key": "captain"}, "examples": examples}
    world.add(persona_document(persona=reference))
    world.step()
    assert world.condition().reason == "PersonaTextNotFound"
    world.texts["captain"] = PersonaText(text="You are a sailor.")
    world.run()
    assert world.condition().status == "True"
    mounted = json.loads(world.cluster.find("ConfigMap")[0]["data"]["manifest.json"])["spec"]
    assert mounted["persona"] == {"text": "You are a sailor.", "examples": examples}
    first = world.persona().status.revision
    world.texts["captain"] = PersonaText(text="You are a poet.")
    world.run()
    assert world.persona().status.revision != first


def test_the_keys_of_judges_reach_the_evaluation_alone() -> None:
    world = World()
    jobs: list[Raw] = []  # finished ones are deleted
    world.cluster.listeners.append(
        lambda _, document: jobs.append(document) if document["kind"] == "Job" else None
    )
    endpoint = {"baseURL": "https://judge.example/v1", "model": "m"}
    secret = {"name": "judges", "key": "first"}
    world.add(
        persona_document(
            teacher={"openAI": {**endpoint, "apiKeySecretRef": {"name": "teacher", "key": "key"}}},
            evaluation={
                "judges": [
                    {"name": "big-one", "openAI": {**endpoint, "apiKeySecretRef": secret}},
                    {"name": "open", "openAI": endpoint},
                ]
            },
        )
    )
    world.run()
    found = {
        (job["metadata"]["labels"]["persona-pruner.io/stage"], variable["name"]): variable[
            "valueFrom"
        ]["secretKeyRef"]
        for job in jobs
        for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]
        if variable["name"].endswith("_API_KEY")
    }
    assert found == {
        ("rewrite", "OPENAI_API_KEY"): {"name": "teacher", "key": "key"},
        ("evaluate", "JUDGE_BIG_ONE_API_KEY"): secret,
    }
