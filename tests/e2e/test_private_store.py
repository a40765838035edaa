"""A persona with its own store, behind TLS with a private CA and credentials from a Secret."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from minio import Minio

from persona_jobs.store import S3Options, StageArtifacts, open_store
from support.bucket import ACCESS_KEY, SECRET_KEY, Bucket
from support.cluster import Cluster
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import SECRET, Release
from support.stage_names import DEFAULT_STAGES

# The endpoint for this machine and for pods, and the ConfigMap with the CA as namespace/name/key.
HOST_ENDPOINT = os.environ.get("E2E_TLS_ENDPOINT", "")
CLUSTER_ENDPOINT = os.environ.get("E2E_TLS_CLUSTER_ENDPOINT", "")
CA = os.environ.get("E2E_TLS_CA", "minio/test-ca/ca.crt")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not HOST_ENDPOINT, reason="E2E_TLS_ENDPOINT is not set, so there is no store with TLS"
    ),
]


@pytest.fixture(scope="module")
def authority(cluster: Cluster, namespaces: dict[str, str], tmp_path_factory) -> Path:
    """Copy the CA's certificate to a file and to a ConfigMap in the persona's namespace."""
    namespace, name, key = CA.split("/")
    found = cluster.get("ConfigMap", namespace, name)
    assert found is not None
    metadata = {"name": "own-ca", "namespace": namespaces["crew"]}
    data = {"bundle.pem": found["data"][key]}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    file = tmp_path_factory.mktemp("ca") / "ca.crt"
    file.write_text(found["data"][key], encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def private(prefix: str, authority: Path, bucket: Bucket, tmp_path_factory) -> Iterator[Bucket]:
    """Create a bucket behind TLS for the tiny base model and its data."""

    class Private(Bucket):
        def __init__(self) -> None:
            self.name, self.uri = prefix, f"s3://{prefix}/personas"
            host = HOST_ENDPOINT.partition("://")[2]
            client = urllib3.PoolManager(ca_certs=str(authority))
            self._minio = Minio(host, ACCESS_KEY, SECRET_KEY, secure=True, http_client=client)
            self._made: set[str] = set()
            self.make(prefix)

        def store(self, uri: str | None = None):
            options = S3Options(
                endpoint=HOST_ENDPOINT,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
                ca_bundle=str(authority),
            )
            return open_store(uri or self.uri, options)

    private = Private()
    yield private
    private.remove()


def test_its_stages_use_only_its_own_store(
    cluster: Cluster,
    release: Release,
    recorder: Recorder,
    namespaces: dict[str, str],
    tiny: Spec,
    private: Bucket,
    tmp_path_factory,
):
    storage = {
        "uri": private.uri,
        "endpoint": CLUSTER_ENDPOINT,
        "credentialsSecretRef": {"name": SECRET},
        "caBundleRef": {"name": "own-ca", "key": "bundle.pem"},
    }
    base = private.put_tiny_base(tmp_path_factory.mktemp("tiny"))
    instructions = private.put_instructions(tmp_path_factory.mktemp("data"))
    changes = {
        "baseModel": {"uri": base},
        "instructions": {"uri": instructions},
        "storage": storage,
    }
    persona = Persona(cluster, namespaces["crew"], "stowaway").apply(merged(tiny, changes))
    persona.until_ready()
    artifacts = StageArtifacts(private.store())
    keys = persona.keys()
    assert all(artifacts.manifest(stage, keys[stage]) for stage in DEFAULT_STAGES)
    # The administrator's store has the same keys from other personas or not at all; the operator
    # has no credentials for this one, so every stage ran and reported its result itself.
    assert recorder.of_persona(persona.namespace, persona.name) == dict.fromkeys(DEFAULT_STAGES, 1)
    assert persona.chat("Where?", max_tokens=4) is not None
    persona.delete()
