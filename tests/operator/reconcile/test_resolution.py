"""Recipes, and finished work that stays finished under another version of the operator."""

import json
from dataclasses import replace
from typing import Any

import pytest

from persona_jobs.api import STAGES, parse_resource
from persona_jobs.pipeline import graph
from persona_operator.reconcile import Observed
from persona_operator.reconcile.context import make_context
from support.fake_cluster import START
from support.operator_world import World, persona_document, recipe_document, settings

GATE = {"thresholds": [{"name": "voice", "metric": "personaScore", "min": 1}]}


@pytest.fixture
def finished() -> World:
    world = World()
    world.add(persona_document())
    world.run()
    assert world.condition().status == "True"
    return world


def later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage computes something else from now on, so that all keys change."""
    later = tuple(replace(stage, version=stage.version + 1) for stage in STAGES)
    monkeypatch.setattr(graph, "STAGES", later)


def jobs(world: World) -> list[str]:
    return [name for kind, name in world.cluster.created if kind == "Job"]


def test_another_operator_version_starts_no_work(finished, monkeypatch):
    before, keys = jobs(finished), [item.key for item in finished.persona().status.stages]
    later_version(monkeypatch)
    finished.run()
    assert jobs(finished) == before
    assert [item.key for item in finished.persona().status.stages] == keys
    assert finished.condition().status == "True"


@pytest.mark.parametrize("change", [{"serving": {"replicas": 2}}, {"evaluation": {"gate": GATE}}])
def test_a_field_that_changes_no_result_starts_no_work_either(finished, monkeypatch, change):
    before = jobs(finished)
    later_version(monkeypatch)
    finished.edit("captain", **change)
    finished.run()
    assert jobs(finished) == before
    assert finished.condition().status == "True"


def test_a_field_of_the_user_starts_the_work_of_the_new_version(finished, monkeypatch):
    before = jobs(finished)
    later_version(monkeypatch)
    finished.edit("captain", pruning={"sparsityPercent": 50})
    finished.run()
    assert len(jobs(finished)) == 2 * len(before)


def test_the_retry_annotation_starts_the_work_of_the_new_version(finished, monkeypatch):
    before = jobs(finished)
    later_version(monkeypatch)
    finished.annotate("captain", retry="1")
    finished.run()
    assert len(jobs(finished)) == 2 * len(before)


def test_the_hash_counts_what_the_user_wrote_and_no_defaults():
    written = {
        "persona": {"text": "a"},
        "baseModel": {"uri": "hf://a/b"},
        "pruning": {"method": "StraightThrough"},
    }
    learning = {"method": "StraightThrough", "straightThrough": {"microBatchSize": 3}}
    default = {**written, "pruning": learning, "serving": {"replicas": 2}}
    assert graph.written_hash(written) == graph.written_hash(default)
    assert graph.written_hash(written) != graph.written_hash({**written, "seed": 0})


def reason(world: World) -> Any:
    world.step()
    return world.condition().reason


def test_a_recipe_is_waited_for_checked_and_merged():
    world = World()
    document = persona_document(recipeRef={"name": "recipe"})
    del document["spec"]["baseModel"]
    world.add(document)
    assert reason(world) == "RecipeNotFound"
    world.add(recipe_document(prunning={}))
    assert reason(world) == "InvalidRecipe"
    assert "spec.prunning: unknown field" in world.condition().message
    world.cluster.delete("PersonaRecipe", "stories", "recipe")
    world.add(recipe_document(pruning={"sparsityPercent": 40}))
    world.run()
    assert world.condition().status == "True"
    assert world.persona().status.sparsity_percent == 40
    assert world.persona().status.base_model == "hf://org/model"


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        ({}, "Float32"),
        ({"execution": {"profile": "gpu"}}, "BFloat16"),
        ({"execution": {"stages": [{"name": "mask", "profile": "gpu"}]}}, "BFloat16"),
        ({"execution": {"stages": [{"name": "mask", "resources": {"gpus": 1}}]}}, "BFloat16"),
        ({"execution": {"profile": "gpu"}, "compute": {"device": "CPU"}}, "Float32"),
        ({"execution": {"profile": "gpu"}, "compute": {"dtype": "Float32"}}, "Float32"),
        ({"compute": {"device": "CUDA"}}, "BFloat16"),
    ],
)
def test_stages_get_the_number_format_that_their_keys_were_made_with(
    spec: dict[str, Any], dtype: str
) -> None:
    world = World()
    world.add(persona_document(**spec))
    context = make_context(world.persona(), Observed(), world.settings, START)
    mounted = parse_resource(json.loads(context.config_map["data"]["manifest.json"])).spec
    assert mounted.compute.dtype == dtype
    assert {stage.name: stage.key for stage in context.stages} == graph.keys(mounted)


def claiming(container: str, **resources: Any) -> dict[str, Any]:
    """Return a profile whose pod template gives a container these resources."""
    spec = {
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
        "containers": [{"name": container, "resources": resources}],
    }
    return {"podTemplate": {"spec": spec}}


@pytest.mark.parametrize(
    ("profile", "dtype"),
    [
        (claiming("stage", claims=[{"name": "gpu"}]), "BFloat16"),
        (claiming("stage", limits={"nvidia.com/gpu": 1}), "BFloat16"),
        (claiming("stage", limits={"amd.com/gpu": "1"}), "BFloat16"),
        (claiming("stage", limits={"nvidia.com/gpu": 0, "cpu": 4}), "Float32"),
        ({**claiming("stage", limits={"dev/mig": 1}), "gpuResource": "dev/mig"}, "BFloat16"),
        (claiming("serve", claims=[{"name": "gpu"}]), "Float32"),
        (claiming("stage"), "Float32"),
    ],
)
def test_a_gpu_from_the_pod_template_counts(profile: dict[str, Any], dtype: str) -> None:
    world = World(settings(profiles={"default": {}, "mask": profile}))
    world.add(persona_document())
    context = make_context(world.persona(), Observed(), world.settings, START)
    assert context.spec.compute.dtype == dtype


def test_gpus_added_to_a_profile_start_no_work_for_a_finished_persona(finished) -> None:
    before = jobs(finished)
    finished.settings = settings(profiles={"default": {"gpus": 1}})
    finished.run()
    assert jobs(finished) == before


@pytest.mark.parametrize(("stage", "accepted"), [("slice", False), ("mask", True)])
def test_gpus_for_a_stage_that_loads_no_model_are_refused(stage: str, accepted: bool) -> None:
    world = World()
    stages = [{"name": stage, "resources": {"gpus": 2}}]
    world.add(persona_document(execution={"stages": stages}))
    world.step()
    assert (world.condition().reason != "InvalidSpec") is accepted
    assert accepted or "stage slice loads no model" in world.condition().message
