"""Personas that share a recipe: short files, one change for all of them, an empty GitOps diff."""

import json
from typing import Any

import pytest
import yaml

from persona_jobs.api import API_VERSION, KIND, RECIPE_KIND
from support.cluster import Cluster
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CREW = {
    "cook": "You are the ship's cook. Everything reminds you of soup.",
    "gunner": "You are the gunner. You shout, and hear badly.",
    "navigator": "You are the navigator. You answer with bearings and stars.",
}


@pytest.fixture(scope="module")
def recipe(release: Release, cluster: Cluster, namespaces: dict[str, str], tiny: Spec) -> str:
    """Apply the recipe of the crew; returns its name."""
    spec = {name: value for name, value in tiny.items() if name != "persona"}
    cluster.apply(
        {
            "apiVersion": API_VERSION,
            "kind": RECIPE_KIND,
            "metadata": {"name": "crew", "namespace": namespaces["crew"]},
            "spec": merged(spec, {"serving": {"mode": "None"}}),
        }
    )
    return "crew"


@pytest.fixture(scope="module")
def crew(
    cluster: Cluster, namespaces: dict[str, str], recorder: Recorder, recipe: str
) -> list[Persona]:
    """Apply personas that hold nothing but a text and the recipe's name."""
    personas = []
    for name, text in CREW.items():
        spec = {"recipeRef": {"name": recipe}, "persona": {"text": text}}
        personas.append(Persona(cluster, namespaces["crew"], name).apply(spec))
    for persona in personas:
        persona.until_ready(480)
    return personas


def sparsity(persona: Persona) -> Any:
    return persona.status["revisions"][0]["sparsityPercent"]


def test_personas_are_made_by_their_recipe(crew: list[Persona]):
    assert [sparsity(persona) for persona in crew] == [25, 25, 25]
    assert {persona.condition()["reason"] for persona in crew} == {"Evaluated"}
    assert {persona.condition("Available")["status"] for persona in crew} == {"False"}
    assert all(persona.kstatus().startswith("Current") for persona in crew)


def test_the_applied_object_stays_as_it_was_written(crew: list[Persona]):
    for persona in crew:
        spec = persona.object["spec"]
        assert set(spec) == {"recipeRef", "persona"}
        manifest = yaml.safe_dump(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": persona.name, "namespace": persona.namespace},
                "spec": spec,
            }
        )
        # kubectl exits with 1 where there is a difference.
        diff = persona.cluster.kubectl("diff", "-f", "-", text=manifest)
        assert diff == ""


def test_one_change_of_the_recipe_changes_them_all(
    crew: list[Persona], recipe: str, recorder: Recorder
):
    before = {
        persona.name: recorder.of_persona(persona.namespace, persona.name) for persona in crew
    }
    first = crew[0]
    change = json.dumps({"spec": {"pruning": {"sparsityPercent": 50}}})
    first.cluster.kubectl(
        "-n", first.namespace, "patch", "personarecipe", recipe, "--type=merge", "-p", change
    )
    for persona in crew:
        persona.until("sparsity 50", lambda persona=persona: sparsity(persona) == 50, 480)
        persona.until_ready(60)
    for persona in crew:
        after = recorder.of_persona(persona.namespace, persona.name)
        again = {
            stage for stage, count in after.items() if count > before[persona.name].get(stage, 0)
        }
        assert again == {"mask", "recover", "slice", "evaluate"}
        assert [item["sparsityPercent"] for item in persona.status["revisions"]] == [50, 25]


def test_a_missing_recipe_is_named_and_waited_for(
    cluster: Cluster, namespaces: dict[str, str], release: Release
):
    persona = Persona(cluster, namespaces["crew"], "stowaway")
    persona.apply({"recipeRef": {"name": "absent"}, "persona": {"text": "You hide."}})
    condition = persona.until_reason("RecipeNotFound", 60)
    assert "PersonaRecipe absent doesn't exist" in condition["message"]
    persona.delete()
