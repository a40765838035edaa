"""Content keys: what changes them and what doesn't."""

import copy

import pytest

from persona_jobs.api import PersonaModelSpec
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import STAGES, keys, plan

SPEC = {
    "persona": {"text": "You are a captain."},
    "baseModel": {"uri": "hf://org/model", "revision": "abc"},
}


def with_change(path, value):
    document = copy.deepcopy(SPEC)
    *parents, last = path.split(".")
    node = document
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return PersonaModelSpec.model_validate(document)


def rerun_by(path, value):
    before, after = keys(PersonaModelSpec.model_validate(SPEC)), keys(with_change(path, value))
    return [stage for stage in STAGES if before.get(stage) != after.get(stage)]


@pytest.mark.parametrize(
    ("path", "value", "first"),
    [
        ("baseModel.uri", "hf://org/other", "reference"),
        ("baseModel.revision", "def", "reference"),
        ("instructions.maxSamples", 100, "reference"),
        ("referencePersonas.count", 5, "reference"),
        ("compute.dtype", "Float32", "reference"),
        ("persona.text", "You are a monk.", "score"),
        ("scoring.keepPercent", 30, "score"),
        ("teacher.strategy", "Answer", "rewrite"),
        ("dataset.testPercent", 20, "rewrite"),
        ("seed", 1, "rewrite"),
        ("pruning.sparsityPercent", 50, "mask"),
        ("pruning.steps", 10, "mask"),
        ("recovery.refit.ridge", "0.2", "recover"),
        ("recovery.fineTune.enabled", False, "recover"),
        ("evaluation.maxQueries", 7, "evaluate"),
    ],
)
def test_a_change_reruns_its_stage_and_all_that_read_it(path, value, first):
    assert rerun_by(path, value) == list(STAGES[STAGES.index(first) :])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("serving.replicas", 5),
        ("evaluation.gate.minPersonaScore", 50),
        ("pruning.microBatchSize", 1),
        ("recovery.fineTune.microBatchSize", 1),
        ("execution.profile", "large"),
        ("compute.device", "CPU"),
        ("storage.uri", "s3://bucket/x"),
        ("suspend", True),
        ("artifactPolicy", "Delete"),
        ("baseModel.tokenSecretRef", {"name": "hub", "key": "token"}),
    ],
)
def test_what_decides_no_result_reruns_nothing(path, value):
    assert rerun_by(path, value) == []


def test_how_a_teacher_is_reached_decides_nothing():
    teacher = {"baseURL": "http://teacher/v1", "model": "m"}
    slow = {**teacher, "timeoutSeconds": 5, "apiKeySecretRef": {"name": "a", "key": "b"}}
    assert keys(with_change("teacher.openAI", teacher)) == keys(with_change("teacher.openAI", slow))
    other = {**teacher, "model": "n"}
    assert (
        keys(with_change("teacher.openAI", teacher))["rewrite"]
        != keys(with_change("teacher.openAI", other))["rewrite"]
    )


def test_every_stage_comes_after_its_inputs():
    seen = {}
    for stage in plan(PersonaModelSpec.model_validate(SPEC)):
        assert {name: seen[name] for name in stage.inputs} == stage.inputs
        seen[stage.name] = stage.key
        assert len(stage.key) == 64
    assert tuple(seen) == STAGES


def test_without_recovery_its_stage_is_left_out():
    spec = with_change("recovery", {"refit": {"enabled": False}, "fineTune": {"enabled": False}})
    names = [stage.name for stage in plan(spec)]
    assert "recover" not in names
    assert all("recover" not in stage.inputs for stage in plan(spec))


def test_settings_of_a_part_that_is_off_decide_nothing():
    off = {"fineTune": {"enabled": False}}
    other = {"fineTune": {"enabled": False, "steps": 7}}
    assert keys(with_change("recovery", off)) == keys(with_change("recovery", other))


def test_an_unresolved_persona_has_no_keys():
    spec = PersonaModelSpec.model_validate(
        {**SPEC, "persona": {"configMapRef": {"name": "a", "key": "b"}}}
    )
    with pytest.raises(InputError, match="configMapRef"):
        plan(spec)
