"""The serving pod of the engine VLLM."""

from typing import Any

from persona_operator.resources.common import SCRATCH_PATH, Images, Owner
from persona_operator.resources.deployment import ServingDeployment, build_deployment
from persona_operator.settings import Profile
from persona_operator.store_access import StoreAccess


def pod(**profile: Any) -> dict[str, Any]:
    serving = ServingDeployment(
        owner=Owner("ada", "default", "1"),
        revision="r1",
        slice_key="0" * 64,
        engine="VLLM",
        fetch_images=Images("jobs:1"),
        images=Images("vllm/vllm-openai:v1"),
        profile=Profile.model_validate(profile),
        store=StoreAccess("file:///store"),
        replicas=1,
        progress_deadline_seconds=600,
        env={"HTTPS_PROXY": "http://proxy:3128"},
    )
    spec: dict[str, Any] = build_deployment(serving)["spec"]["template"]["spec"]
    return spec


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"]}


def test_a_vllm_pod_has_a_user_and_writes_to_its_scratch_volume_only() -> None:
    (serve,) = pod()["containers"]
    found = environment(serve)
    assert found["USER"] == found["LOGNAME"] == "persona"
    caches = {name: path for name, path in found.items() if name.startswith(("XDG_", "TRITON_"))}
    assert len(caches) == 3
    assert all(path.startswith(SCRATCH_PATH + "/") for path in caches.values())
    assert (found["VLLM_NO_USAGE_STATS"], found["DO_NOT_TRACK"]) == ("1", "1")
    assert found["HTTPS_PROXY"] == "http://proxy:3128"


def test_the_administrator_s_environment_wins() -> None:
    (serve,) = pod(env=[{"name": "XDG_CACHE_HOME", "value": "/elsewhere"}])["containers"]
    assert environment(serve)["XDG_CACHE_HOME"] == "/elsewhere"


def test_a_vllm_pod_answers_for_a_while_before_it_is_told_to_stop() -> None:
    spec = pod()
    (serve,) = spec["containers"]
    drain = serve["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 20 <= drain <= spec["terminationGracePeriodSeconds"] - 30
