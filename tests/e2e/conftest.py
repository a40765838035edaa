"""One installation of the chart per session, with a bucket, namespaces and two personas.

All tests need a cluster (KUBECONFIG) with MinIO in it, the two images loaded, and helm, kubectl and
kstatus on the PATH. docs/development.md explains how to set that up and lists the E2E_* variables.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import teacher as support_teacher
from support.bucket import ACCESS_KEY, CLUSTER_ENDPOINT, SECRET_KEY, Bucket
from support.cluster import Cluster
from support.personas import Persona, Spec, merged, tiny_spec
from support.recorder import Recorder
from support.release import SECRET, Release

EXAMPLE = Path(__file__).parents[2] / "examples" / "persona.yaml"
IMAGES = os.environ.get("E2E_IMAGE_PREFIX", "persona-pruner")
TAG = os.environ.get("E2E_IMAGE_TAG", "dev")
JOBS_IMAGE = f"{IMAGES}/jobs:{TAG}"
PERSONAS = "personamodels.persona-pruner.io"
# Makes the example, which runs the real SmolLM2, as small as possible.
EXAMPLE_CHANGES: Spec = {
    "instructions": {"maxSamples": 40},
    "referencePersonas": {"count": 2},
    "teacher": {"maxTokens": 24, "overlong": "CutAtSentence"},
    "recovery": {"reconstruct": {"steps": 2}},
    "evaluation": {
        "maxQueries": 2,
        "maxAnswerTokens": 8,
        "genericSamples": 4,
        # What two answers of eight tokens measure says nothing about the model.
        "gate": {"thresholds": [{"name": "divergence", "metric": "personaKl", "max": "10"}]},
    },
    "compute": {"dtype": "Float32"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest passes the items of all folders to this hook.
    for item in items:
        if item.get_closest_marker("e2e") and not os.environ.get("KUBECONFIG"):
            item.add_marker(pytest.mark.skip(reason="KUBECONFIG names no cluster"))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture(scope="session")
def prefix() -> str:
    """Return the prefix of the names of all cluster-wide objects of this session."""
    return f"e2e-{uuid.uuid4().hex[:5]}"


@pytest.fixture(scope="session")
def bucket(prefix: str) -> Iterator[Bucket]:
    bucket = Bucket(prefix)
    yield bucket
    bucket.remove()


@pytest.fixture(scope="session")
def namespaces(cluster: Cluster, prefix: str) -> Iterator[dict[str, str]]:
    """Create the namespaces, each with the store's Secret; yields their names by role."""
    roles = ["system", "crew", "guests", "faults", "quota", "storm", "elsewhere"]
    names = {role: f"{prefix}-{role}" for role in roles}
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    try:
        for name in names.values():
            make_namespace(cluster, name)
            secret(cluster, name, SECRET, keys)
        yield names
    finally:
        cluster.kubectl("delete", "namespace", "--wait", *names.values(), check=False)


def make_namespace(cluster: Cluster, name: str) -> None:
    """Create a namespace with the strictest Pod Security level."""
    metadata = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


def secret(cluster: Cluster, namespace: str, name: str, keys: dict[str, str]) -> None:
    metadata = {"name": name, "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})


@pytest.fixture(scope="session")
def values(bucket: Bucket) -> dict[str, Any]:
    """Return the chart's values, without `namespaces`."""
    small = {"cpu": "50m", "memory": "3Gi", "scratch": "4Gi"}
    return {
        "image": {"registry": "", "pullPolicy": "IfNotPresent"},
        "operator": {
            "image": {"repository": f"{IMAGES}/operator", "tag": TAG},
            "tuning": {"blockedGraceSeconds": 20},
        },
        "jobs": {"image": {"repository": f"{IMAGES}/jobs", "tag": TAG}},
        "store": {
            "uri": bucket.uri,
            "endpoint": CLUSTER_ENDPOINT,
            "credentialsSecret": SECRET,
        },
        "profiles": {"default": small, "serving": small},
    }


@pytest.fixture(scope="session")
def release(
    cluster: Cluster, namespaces: dict[str, str], values: dict[str, Any]
) -> Iterator[Release]:
    """Install the operator with permissions in the tests' namespaces only."""
    found = cluster.kubectl("get", "crd", PERSONAS, "--ignore-not-found", "-o", "name")
    watched = [namespaces[role] for role in ("crew", "guests", "faults", "quota", "storm")]
    release = Release(cluster, namespaces["system"], watched, values | {"namespaces": watched})
    try:
        release.install()
        yield release
    finally:
        for namespace in namespaces.values():
            # Only the operator removes its finalizers, so the personas go first.
            cluster.kubectl("-n", namespace, "delete", "personas", "--all", check=False)
        release.uninstall()
        if not found:
            cluster.kubectl("delete", "crd", PERSONAS, check=False)


@pytest.fixture(scope="session")
def recorder(cluster: Cluster, release: Release) -> Iterator[Recorder]:
    """Record every Job and pod since the installation."""
    recorder = Recorder(cluster, release.watched)
    yield recorder
    recorder.stop()


@pytest.fixture(scope="session")
def teacher(cluster: Cluster, namespaces: dict[str, str]) -> str:
    """Start a teacher that answers immediately; returns its base URL."""
    namespace = namespaces["system"]
    cluster.apply(*support_teacher.manifests(namespace, JOBS_IMAGE))
    cluster.kubectl("-n", namespace, "rollout", "status", "deployment/teacher", "--timeout=60s")
    return support_teacher.base_url(namespace)


@pytest.fixture(scope="session")
def tiny(bucket: Bucket, teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """Return the spec of a persona whose stages take seconds each."""
    base = bucket.put_tiny_base(tmp_path_factory.mktemp("tiny"))
    instructions = bucket.put_instructions(tmp_path_factory.mktemp("data"))
    return tiny_spec(base, instructions, teacher)


@pytest.fixture(scope="session")
def example(
    cluster: Cluster, release: Release, recorder: Recorder, namespaces: dict[str, str]
) -> Persona:
    """Apply examples/persona.yaml; its stages run while other tests run."""
    document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    persona = Persona(cluster, namespaces["crew"], document["metadata"]["name"])
    return persona.apply(merged(document["spec"], EXAMPLE_CHANGES))


@pytest.fixture(scope="session")
def captain(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    release: Release,
    recorder: Recorder,
    namespaces: dict[str, str],
    tiny: Spec,
) -> Persona:
    """Return a tiny persona that is being served."""
    if any("example" in item.fixturenames for item in request.session.items):
        # The example takes longest: started here, it is ready by the time its tests run.
        request.getfixturevalue("example")
    persona = Persona(cluster, namespaces["crew"], "captain").apply(tiny)
    persona.until_ready()
    return persona


@pytest.fixture(autouse=True)
def _operator_log_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the end of the operator's log after a failed test."""
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before and "release" in request.fixturenames:
        log = request.getfixturevalue("release").log()
        print("--- operator\n" + "\n".join(log.splitlines()[-40:]))
