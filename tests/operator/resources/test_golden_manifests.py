"""Manifests against golden files. After a wanted change write them anew and read the difference:

UPDATE_GOLDEN=1 python -m pytest tests/operator/resources/test_golden_manifests.py
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona_jobs.api import API_VERSION, KIND, parse_resource
from persona_jobs.api.common import SecretKeyRef
from persona_operator.resources.common import Images, Owner
from persona_operator.resources.config_map import build_config_map, stage_manifest
from persona_operator.resources.deployment import ServingDeployment, build_deployment
from persona_operator.resources.hpa import build_hpa
from persona_operator.resources.job import StageJob, build_job, template_checksum
from persona_operator.resources.pdb import build_pdb
from persona_operator.resources.service import build_service
from persona_operator.settings import ConfigMapKey, MountedVolume, Profile, Volume
from persona_operator.store_access import StoreAccess
from support.operator_world import persona_document

GOLDEN = Path(__file__).parent.parent / "golden"
OWNER = Owner("captain", "stories", "11111111-2222-3333-4444-555555555555")
KEY = "0123456789abcdef" * 4
IMAGES = Images("registry.example/jobs:1", "IfNotPresent", ("pull",))
S3 = StoreAccess(
    uri="s3://models/personas",
    endpoint="https://minio.example:9000",
    region="eu-1",
    addressing_style="path",
    credentials_secret="store",
    ca=ConfigMapKey(name="ca", key="ca.crt"),
)
SMALL = Profile(cpu="500m", memory="4Gi", scratch="10Gi", active_deadline_seconds=3600)
GPU = Profile(
    cpu="4",
    memory="32Gi",
    gpus=2,
    scratch="100Gi",
    scratch_storage_class="fast",
    node_selector={"pool": "gpu"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    runtime_class_name="nvidia",
    priority_class_name="batch",
    active_deadline_seconds=7200,
    pod_annotations={"example.com/note": "gpu"},
    pod_labels={"example.com/team": "stories"},
)


def stage_job(**changes: Any) -> StageJob:
    values: dict[str, Any] = {
        "owner": OWNER,
        "stage": "mask",
        "key": KEY,
        "attempt": 1,
        "config_map": "captain-manifest-12345678",
        "images": IMAGES,
        "profile": SMALL,
        "store": S3,
        **changes,
    }
    return StageJob(**values)


def deployment(**changes: Any) -> ServingDeployment:
    values: dict[str, Any] = {
        "owner": OWNER,
        "revision": KEY[:8],
        "slice_key": KEY,
        "engine": "Transformers",
        "fetch_images": IMAGES,
        "images": IMAGES,
        "profile": SMALL,
        "store": S3,
        "replicas": 2,
        **changes,
    }
    return ServingDeployment(**values)


def config_map() -> dict[str, Any]:
    spec = parse_resource(persona_document()).spec
    return build_config_map(OWNER, stage_manifest("captain", "stories", API_VERSION, KIND, spec))


MANIFESTS = {
    "job-cpu": lambda: build_job(stage_job()),
    "job-gpu-queued": lambda: build_job(
        stage_job(
            stage="rewrite",
            attempt=3,
            profile=GPU,
            cache=Volume(claim_name="models"),
            env={"HTTPS_PROXY": "http://proxy.example:3128"},
            secrets={
                "HF_TOKEN": SecretKeyRef(name="hub", key="token"),
                "OPENAI_API_KEY": SecretKeyRef(name="teacher", key="key"),
            },
            queue_labels={"kueue.x-k8s.io/queue-name": "team"},
        )
    ),
    "job-shared-directory": lambda: build_job(
        stage_job(
            store=StoreAccess(
                uri="file:///store/personas",
                volume=MountedVolume(claim_name="shared", mount_path="/store"),
            )
        )
    ),
    "config-map": config_map,
    "deployment-cpu": lambda: build_deployment(deployment()),
    "deployment-gpu-vllm": lambda: build_deployment(
        deployment(
            engine="VLLM",
            images=Images("vllm/vllm-openai:v0", "IfNotPresent", ("pull",)),
            profile=GPU,
            replicas=None,
            max_context_tokens=4096,
        )
    ),
    "service": lambda: build_service(OWNER),
    "hpa": lambda: build_hpa(OWNER, min_replicas=1, max_replicas=4, target_cpu_percent=80),
    "pdb": lambda: build_pdb(OWNER),
}


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_golden(name: str) -> None:
    manifest = MANIFESTS[name]()
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump(manifest, sort_keys=False, width=100))
    assert yaml.safe_load(path.read_text()) == json.loads(json.dumps(manifest))


def pod_templates() -> dict[str, dict[str, Any]]:
    built = {name: build() for name, build in MANIFESTS.items()}
    return {
        name: manifest["spec"]["template"]["spec"]
        for name, manifest in built.items()
        if manifest["kind"] in {"Job", "Deployment"}
    }


@pytest.mark.parametrize("name", sorted(pod_templates()))
def test_pod_security_restricted(name: str) -> None:
    """The rules of https://kubernetes.io/docs/concepts/security/pod-security-standards."""
    pod = pod_templates()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "ephemeral"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in pod["containers"] + pod.get("initContainers", []):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", sorted(pod_templates()))
def test_every_mount_has_its_volume(name: str) -> None:
    pod = pod_templates()[name]
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(volumes) == len(set(volumes))
    for container in pod["containers"] + pod.get("initContainers", []):
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_names_and_labels_fit_for_the_longest_persona_name() -> None:
    owner = Owner("p" * 40, "stories", "uid")
    job = build_job(stage_job(owner=owner, stage="reference", attempt=999))
    assert len(job["metadata"]["name"]) <= 63
    assert all(len(value) <= 63 for value in job["metadata"]["labels"].values())
    assert len(build_config_map(owner, {"a": 1})["metadata"]["name"]) <= 253


def test_the_template_checksum_changes_with_what_the_pod_gets() -> None:
    base = template_checksum(stage_job())
    assert template_checksum(stage_job(attempt=2)) == base
    assert template_checksum(stage_job(profile=GPU)) != base
    assert template_checksum(stage_job(config_map="another")) != base
    later = SMALL.model_copy(update={"active_deadline_seconds": 60})
    assert template_checksum(stage_job(profile=later)) != base


def test_the_stage_manifest_ignores_what_no_stage_reads() -> None:
    def manifest(**spec: Any) -> dict[str, Any]:
        parsed = parse_resource(persona_document(**spec)).spec
        return stage_manifest("captain", "stories", API_VERSION, KIND, parsed)

    base = manifest()
    assert parse_resource(base).spec.persona.text == "You are captain, an old sailor."
    assert manifest(serving={"replicas": 3}) == base
    assert manifest(suspend=True) == base
    assert manifest(execution={"profile": "gpu"}) == base
    assert manifest(evaluation={"gate": {"minPersonaScore": 50}}) == base
    assert manifest(pruning={"microBatchSize": 4}) != base


def test_no_secret_value_is_in_any_manifest() -> None:
    for name, pod in pod_templates().items():
        for container in pod["containers"] + pod.get("initContainers", []):
            named = {item["name"]: item for item in container["env"]}
            secret = {"HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"} & set(named)
            assert all("value" not in named[item] for item in secret), name
