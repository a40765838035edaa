"""A PersonaModel on top of its recipe."""

import pytest
import yaml

from persona_jobs.api import load_resource, parse_recipe, validate_file
from persona_jobs.api.recipe import merge_recipe
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import keys

RECIPE = {
    "apiVersion": "persona-pruner.io/v1alpha1",
    "kind": "PersonaRecipe",
    "metadata": {"name": "npc"},
    "spec": {
        "baseModel": {"uri": "hf://org/model", "revision": "abc"},
        "pruning": {
            "sparsityPercent": 40,
            "method": "StraightThrough",
            "straightThrough": {"steps": 10},
        },
        "serving": {"replicas": 3},
        "teacher": {"openAI": {"baseURL": "http://teacher/v1"}},
        "evaluation": {"questionFiles": [{"uri": "file:///a.json"}]},
    },
}


def persona(**spec):
    return {
        "apiVersion": "persona-pruner.io/v1alpha1",
        "kind": "PersonaModel",
        "metadata": {"name": "captain"},
        "spec": {"persona": {"text": "You are a captain."}, "recipeRef": {"name": "npc"}} | spec,
    }


def write(tmp_path, *documents):
    path = tmp_path / "persona.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


@pytest.mark.parametrize(
    ("recipe", "own", "merged"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": {"x": None}}, {"a": {"x": 1}}),
        (
            {"serving": {"replicas": 3, "engine": "VLLM"}},
            {"serving": {"autoscaling": {"maxReplicas": 2}}},
            {"serving": {"engine": "VLLM", "autoscaling": {"maxReplicas": 2}}},
        ),
        (
            {"pruning": {"straightThrough": {"steps": 5}, "alignment": 8}},
            {"pruning": {"method": "ActivationNorm"}},
            {"pruning": {"method": "ActivationNorm", "alignment": 8}},
        ),
        (
            {"pruning": {"straightThrough": {"steps": 5}}},
            {"pruning": {"method": "OptimalBrainSurgeon"}},
            {"pruning": {"method": "OptimalBrainSurgeon"}},
        ),
        (
            {"pruning": {"straightThrough": {"steps": 5}}},
            {"pruning": {"method": "StraightThrough"}},
            {"pruning": {"method": "StraightThrough", "straightThrough": {"steps": 5}}},
        ),
        (
            {"serving": {"autoscaling": {"maxReplicas": 9, "minReplicas": 2}}},
            {"serving": {"autoscaling": {"maxReplicas": 4}}},
            {"serving": {"autoscaling": {"maxReplicas": 4, "minReplicas": 2}}},
        ),
    ],
)
def test_objects_merge_lists_replace_and_a_union_has_one_member(recipe, own, merged):
    assert merge_recipe(recipe, own) == merged


def test_a_file_with_both_documents_is_one_resolved_persona(tmp_path):
    own = persona(
        pruning={"sparsityPercent": 25},
        teacher={"openAI": {"model": "m"}},
        evaluation={"questionFiles": []},
    )
    spec = load_resource(write(tmp_path, RECIPE, own)).spec
    assert (spec.pruning.sparsity_percent, spec.pruning.straight_through.steps) == (25, 10)
    assert spec.serving.replicas == 3
    assert (spec.teacher.open_ai.base_url, spec.teacher.open_ai.model) == ("http://teacher/v1", "m")
    assert spec.evaluation.question_files == []
    assert spec.recipe_ref is None


def test_a_recipe_gives_the_same_keys_as_its_fields_written_out(tmp_path):
    teacher = {"openAI": {"baseURL": "http://teacher/v1", "model": "m"}}
    by_recipe = load_resource(write(tmp_path, RECIPE, persona(teacher=teacher)))
    written_out = persona(**(RECIPE["spec"] | {"teacher": teacher}))
    del written_out["spec"]["recipeRef"]
    assert keys(by_recipe.spec) == keys(load_resource(write(tmp_path, written_out)).spec)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match=r"PersonaRecipe 'npc', which .* does not hold"):
        load_resource(write(tmp_path, persona()))


def test_what_neither_gives_is_required(tmp_path):
    recipe = {**RECIPE, "spec": {"pruning": {"alignment": 1}}}
    with pytest.raises(InputError, match=r"spec\.baseModel: is required"):
        load_resource(write(tmp_path, recipe, persona()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"persona": {"text": "x"}}, r"spec\.persona: belongs in a PersonaModel"),
        ({"recipeRef": {"name": "x"}}, r"spec\.recipeRef: belongs in a PersonaModel"),
        ({"prunning": {}}, r"spec\.prunning: unknown field"),
        ({"pruning": {"sparsityPercent": 95}}, r"spec\.pruning\.sparsityPercent: "),
    ],
)
def test_wrong_fields_of_a_recipe_are_named(spec, message):
    with pytest.raises(InputError, match=message):
        parse_recipe({**RECIPE, "spec": spec})


def test_a_file_may_hold_a_recipe_and_many_personas_to_validate(tmp_path):
    teacher = {"openAI": {"model": "m"}}
    others = [persona(teacher=teacher) for _ in range(3)]
    for number, other in enumerate(others):
        other["metadata"] = {"name": f"captain-{number}"}
    checked = validate_file(write(tmp_path, RECIPE, *others))
    titles = ["PersonaRecipe npc"] + [f"PersonaModel captain-{n}" for n in range(3)]
    assert [resource.title for resource in checked] == titles
    assert len({resource.base_model for resource in checked}) == 1


def test_a_file_without_any_resource_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no PersonaModel and no PersonaRecipe"):
        validate_file(write(tmp_path, {"kind": "ConfigMap", "metadata": {"name": "x"}}))
