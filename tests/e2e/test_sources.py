"""Sources in a bucket that the spec doesn't pin: looked up once, and read as they were then."""

import json
from pathlib import Path
from typing import Any

import pytest

from persona_jobs.api import API_VERSION, KIND, parse_resource
from persona_jobs.pipeline.graph import keys
from persona_jobs.sources.resolve import SourceResolver
from support.bucket import ACCESS_KEY, CLUSTER_ENDPOINT, ENDPOINT, SECRET_KEY, Bucket
from support.cluster import Cluster
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
OTHER_NAME = CLUSTER_ENDPOINT.replace(".svc:", ".svc.cluster.local:")


def put_instructions(bucket: Bucket, name: str, count: int = 48) -> str:
    """Upload instructions under a name of their own; returns their URI."""
    lines = [
        {"instruction": f"What is tide {number}?", "output": f"Tide {number} comes after another."}
        for number in range(count)
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    bucket.store(f"s3://{bucket.name}/data").write_bytes(f"{name}.jsonl", text.encode())
    return f"s3://{bucket.name}/data/{name}.jsonl"


def lookups(recorder: Recorder, persona: Persona) -> list[Any]:
    return recorder.manifests(persona.namespace, persona.name, "resolve")


def recorded(persona: Persona) -> dict[str, str]:
    return {item["name"]: item["revision"] for item in persona.status["sources"]}


@pytest.fixture(scope="module")
def pilot(
    cluster: Cluster,
    release: Release,
    recorder: Recorder,
    namespaces: dict[str, str],
    tiny: Spec,
    bucket: Bucket,
) -> Persona:
    """Return a persona that is being served and whose instructions only its tests change."""
    source = {"instructions": {"uri": put_instructions(bucket, "pilot")}}
    persona = Persona(cluster, namespaces["crew"], "pilot").apply(merged(tiny, source))
    persona.until_ready()
    return persona


def test_the_sources_are_looked_up_by_one_small_job(pilot: Persona, recorder: Recorder):
    [job] = lookups(recorder, pilot)
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "512Mi"}
    assert pilot.status["resolution"]["state"] == "Succeeded"
    found = recorded(pilot)
    assert set(found) == {"baseModel", "instructions", "referencePersonas"}
    assert found["baseModel"].startswith("etag:")
    assert found["instructions"].startswith("etag:")
    assert found["referencePersonas"].startswith("sha256:")


def test_the_keys_are_those_of_a_laptop(
    pilot: Persona, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        "AWS_ENDPOINT_URL_S3": ENDPOINT,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }.items():
        monkeypatch.setenv(name, value)
    written = pilot.object["spec"]
    metadata = {"name": pilot.name, "namespace": pilot.namespace}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": written}
    resolved = parse_resource(document).manifest()
    SourceResolver(tmp_path, {}).resolve(resolved["spec"])
    assert keys(parse_resource(resolved).spec) == pilot.keys()


def test_another_object_starts_nothing_until_a_retry_is_asked_for(
    pilot: Persona, bucket: Bucket, recorder: Recorder
):
    before, found = pilot.keys(), recorded(pilot)
    started = recorder.of_persona(pilot.namespace, pilot.name)
    put_instructions(bucket, "pilot", count=50)
    pilot.change(serving={"replicas": 2})
    pilot.until("two replicas", lambda: pilot.status["serving"].get("readyReplicas") == 2, 120)
    assert pilot.keys() == before
    assert recorder.of_persona(pilot.namespace, pilot.name) == started
    pilot.retry("take the new object")
    pilot.until("other keys", lambda: pilot.keys()["reference"] != before["reference"], 120)
    assert recorded(pilot)["instructions"] != found["instructions"]
    assert recorded(pilot)["baseModel"] == found["baseModel"]
    pilot.until_ready()
    pilot.delete()


def test_an_object_that_changes_between_lookup_and_stage_is_named(
    cluster: Cluster, release: Release, namespaces: dict[str, str], tiny: Spec, bucket: Bucket
):
    uri = put_instructions(bucket, "drifter")
    nowhere = {"stages": [{"name": "reference", "resources": {"gpus": 64}}]}
    spec = merged(tiny, {"instructions": {"uri": uri}, "execution": nowhere})
    persona = Persona(cluster, namespaces["faults"], "drifter").apply(spec)
    persona.until_reason("Unschedulable")
    put_instructions(bucket, "drifter", count=50)
    persona.change(execution={"stages": [{"name": "reference", "resources": {"gpus": 0}}]})
    condition = persona.until_reason("InvalidInput")
    assert f"{uri} has changed since it was resolved" in condition["message"]
    assert "spec.instructions" in condition["message"]
    assert len(persona.jobs("reference")) == 1
    persona.retry("take the new object")
    persona.until_stage("reference", "Succeeded")
    persona.delete()


def test_a_missing_object_is_named_and_found_later(
    cluster: Cluster, release: Release, namespaces: dict[str, str], tiny: Spec, bucket: Bucket
):
    uri = f"s3://{bucket.name}/data/later.jsonl"
    spec = merged(tiny, {"instructions": {"uri": uri}})
    persona = Persona(cluster, namespaces["faults"], "waiter").apply(spec)
    condition = persona.until_reason("InvalidInput")
    assert f"{uri} does not exist" in condition["message"]
    assert persona.status.get("stages", []) == []
    assert len(persona.jobs("resolve")) == 1
    put_instructions(bucket, "later")
    persona.retry("it is there now")
    persona.until_stage("reference", "Succeeded")
    persona.delete()


@pytest.mark.skipif(OTHER_NAME == CLUSTER_ENDPOINT, reason="the endpoint has only one name")
def test_a_source_has_a_server_and_a_secret_of_its_own(
    cluster: Cluster, release: Release, namespaces: dict[str, str], tiny: Spec, bucket: Bucket
):
    source = {"uri": put_instructions(bucket, "own"), "endpoint": OTHER_NAME}
    namespace = namespaces["faults"]
    spec = merged(tiny, {"instructions": source})
    stranger = Persona(cluster, namespace, "stranger").apply(spec)
    condition = stranger.until_reason("StoreUnavailable")
    assert "INSTRUCTIONS_AWS_ACCESS_KEY_ID" in condition["message"]
    stranger.delete()
    metadata = {"name": "own-keys", "namespace": namespace}
    data = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
    credentials = {"credentialsSecretRef": {"name": "own-keys"}}
    owner = Persona(cluster, namespace, "owner")
    owner.apply(merged(spec, {"instructions": credentials}))
    owner.until_stage("reference", "Succeeded")
    shown = json.dumps(owner.object) + json.dumps(owner.jobs())
    assert SECRET_KEY not in shown
    owner.delete()
