"""Which resource profile a stage or the serving pods get."""

from typing import Any

import pytest

from persona_jobs.api import Execution, PersonaModelSpec, Serving, parse_resource
from persona_operator.profiles import (
    max_retries,
    planned_profile,
    serving_profile,
    stage_profile,
)
from persona_operator.settings import Profile
from support.operator_world import persona_document

PROFILES = {
    "default": Profile(cpu="1"),
    "mask": Profile(cpu="2"),
    "gpu": Profile(cpu="4", gpus=1, active_deadline_seconds=100),
}


@pytest.mark.parametrize(
    ("stage", "execution", "cpu"),
    [
        ("score", {}, "1"),
        ("mask", {}, "2"),
        ("mask", {"profile": "gpu"}, "4"),
        ("mask", {"profile": "gpu", "stages": [{"name": "mask", "profile": "default"}]}, "1"),
        ("mask", {"stages": [{"name": "mask", "resources": {"cpu": "9"}}]}, "9"),
        ("score", {"stages": [{"name": "mask", "resources": {"cpu": "9"}}]}, "1"),
    ],
)
def test_the_most_specific_profile_wins(stage: Any, execution: dict[str, Any], cpu: str) -> None:
    assert stage_profile(stage, Execution.model_validate(execution), PROFILES).cpu == cpu


def test_a_stage_has_its_own_time_limit_or_the_default() -> None:
    assert stage_profile("score", Execution(), PROFILES).active_deadline_seconds == 86_400
    gpu = Execution(profile="gpu")
    assert stage_profile("score", gpu, PROFILES).active_deadline_seconds == 100
    own = Execution.model_validate({"stages": [{"name": "score", "activeDeadlineSeconds": 60}]})
    assert stage_profile("score", own, PROFILES).active_deadline_seconds == 60


def spec(**teacher: Any) -> PersonaModelSpec:
    return parse_resource(persona_document(**({"teacher": teacher} if teacher else {}))).spec


def test_a_stage_that_loads_no_model_gets_no_gpu() -> None:
    claims = {"spec": {"resourceClaims": [{"name": "device"}], "tolerations": [{"key": "gpu"}]}}
    profiles = {"default": Profile.model_validate({"gpus": 4, "podTemplate": claims})}
    endpoint = spec(openAI={"baseURL": "http://teacher.example/v1", "model": "m"})
    own = {
        stage: planned_profile(stage, spec(), profiles) for stage in ("mask", "slice", "rewrite")
    }
    assert {stage: profile.gpus for stage, profile in own.items()} == {
        "mask": 4, "slice": 0, "rewrite": 4,
    }  # fmt: skip
    assert own["slice"].pod_template == {"spec": {"tolerations": [{"key": "gpu"}]}}
    assert own["mask"].pod_template == claims
    assert planned_profile("rewrite", endpoint, profiles).gpus == 0


def test_retries_and_the_serving_profile_have_defaults() -> None:
    own = Execution.model_validate({"stages": [{"name": "score", "maxRetries": 7}]})
    assert (max_retries("score", own, 3), max_retries("mask", own, 3)) == (7, 3)
    assert serving_profile(Serving(), PROFILES).cpu == "1"
    assert serving_profile(Serving(profile="gpu"), PROFILES).gpus == 1
    assert serving_profile(Serving(), {}) == Profile()


def test_the_engine_gets_the_arguments_and_environment_of_profile_and_spec() -> None:
    given = {"args": ["--a"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    serving = Serving.model_validate({"args": ["--b"], "env": [{"name": "A", "value": "3"}]})
    profile = serving_profile(serving, {"serving": Profile.model_validate(given)})
    assert profile.args == ["--a", "--b"]
    assert {item.name: item.value for item in profile.env} == {"A": "3", "B": "2"}
