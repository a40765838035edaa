"""The example persona with the real SmolLM2, from `kubectl apply` to a chat answer."""

import pytest

from persona_jobs.models import mask_file
from support.bucket import Bucket
from support.personas import Persona
from support.recorder import Recorder
from support.stage_names import DEFAULT_STAGES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def ready(example: Persona) -> Persona:
    namespace, name = example.namespace, example.name
    assert example.condition()["status"] != "False", example.cluster.diagnose(namespace)
    output = example.cluster.kubectl(
        "-n",
        namespace,
        "wait",
        "--for=condition=Ready",
        f"persona/{name}",
        "--timeout=1200s",
        check=False,
    )
    assert "condition met" in output, output + example.cluster.diagnose(namespace)
    return example


def test_it_answers_through_the_service(ready: Persona):
    answer = ready.chat("What is the sea?", max_tokens=12, temperature=0)
    assert len(answer.split()) > 2


def test_each_stage_ran_once(ready: Persona, recorder: Recorder):
    assert recorder.of_persona(ready.namespace, ready.name) == dict.fromkeys(DEFAULT_STAGES, 1)


def test_mask_and_checkpoint_are_in_the_bucket(ready: Persona, bucket: Bucket):
    artifacts, keys = bucket.artifacts(), ready.keys()
    for stage in DEFAULT_STAGES:
        manifest = artifacts.manifest(stage, keys[stage])
        assert manifest is not None
        # Each file is fetched and compared with its recorded size and SHA-256.
        folder = artifacts.local_dir(stage, keys[stage])
        assert {file for file in manifest.files if not (folder / file).is_file()} == set()
    mask = mask_file.load(artifacts.local_file("mask", keys["mask"], "mask.safetensors"))
    kept = mask.bits.float().mean().item()
    assert 0.6 < kept < 0.9
    (revision,) = ready.status["revisions"]
    recorded = {item["name"]: item["key"] for item in revision["artifacts"]}
    assert recorded == {"checkpoint": keys["slice"], "evaluation": keys["evaluate"]}
    metrics = {item["name"]: item for item in revision["metrics"]}
    parameters = int(metrics["parameters"]["value"])
    assert parameters < int(metrics["parameters"]["dense"])
    # bfloat16; the dense model's size is that of its 4-bit GGUF file.
    assert int(metrics["checkpointBytes"]["value"]) == pytest.approx(2 * parameters, rel=0.01)
    assert int(metrics["checkpointBytes"]["dense"]) < parameters


def test_kubectl_shows_it(ready: Persona):
    kubectl = ready.cluster.kubectl
    header, row = kubectl("-n", ready.namespace, "get", "personas", ready.name).splitlines()
    assert header.split() == ["NAME", "PHASE", "SCORE", "SIZE", "AVAILABLE", "AGE"]
    assert row.split()[:2] == [ready.name, "Serving"]
    assert row.split()[-2] == "True"
    assert "MB (dense " in row
    wide = kubectl("-n", ready.namespace, "get", "personas", ready.name, "-o", "wide")
    assert "ms/token" in wide
    assert f"http://{ready.name}.{ready.namespace}.svc:8000" in wide
    assert ready.status["revision"] in wide
    described = kubectl("-n", ready.namespace, "describe", "persona", ready.name)
    for reason in ("StageStarted", "StageSucceeded", "RevisionServed"):
        assert reason in described
