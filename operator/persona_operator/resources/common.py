"""Parts that the pods of stages and the serving pods have in common."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ..labels import CHECKSUM_ANNOTATION, owner_reference
from ..settings import Profile, SecurityContext, Volume
from ..store_access import StoreAccess

Manifest = dict[str, Any]

USER_ID = 65532
SCRATCH_PATH = "/scratch"
CACHE_PATH = "/cache"
CA_DIRECTORY = "/etc/persona/ca"
CA_FILE = "ca.crt"


@dataclass(frozen=True)
class Owner:
    """The PersonaModel that an object belongs to."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True)
class Images:
    """An image with its pull policy and pull secrets."""

    image: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()


def object_metadata(
    owner: Owner, name: str, labels: dict[str, str], annotations: dict[str, str] | None = None
) -> Manifest:
    """Return object metadata with the owner reference."""
    result: Manifest = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "ownerReferences": [owner_reference(owner.name, owner.uid)],
    }
    if annotations:
        result["annotations"] = annotations
    return result


def checksum(document: object) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_checksum(manifest: Manifest) -> Manifest:
    """Return `manifest` with its checksum as an annotation, which shows whether it has changed."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), CHECKSUM_ANNOTATION: checksum(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def pod_security(mode: SecurityContext) -> Manifest:
    """Return a pod security context that Pod Security "restricted" accepts."""
    users = {"runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID}
    return {
        "runAsNonRoot": True,
        **(users if mode == "Restricted" else {}),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """Return a container security context that Pod Security "restricted" accepts."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def resources(profile: Profile) -> Manifest:
    """Return requests and limits: memory is limited, CPU time isn't, GPUs are whole.

    The scratch volume counts where it is on the node's disk, so that the scheduler knows of it; its
    own size limit is enough of a limit.
    """
    requests: Manifest = {}
    limits: Manifest = {}
    if profile.cpu:
        requests["cpu"] = profile.cpu
    if profile.memory:
        requests["memory"] = limits["memory"] = profile.memory
    if profile.scratch and not profile.scratch_storage_class:
        requests["ephemeral-storage"] = profile.scratch
    if profile.gpus:
        requests[profile.gpu_resource] = limits[profile.gpu_resource] = str(profile.gpus)
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def placement(profile: Profile) -> Manifest:
    """Return the fields of a pod spec that decide where the pod may run."""
    fields: Manifest = {
        "nodeSelector": profile.node_selector,
        "tolerations": profile.tolerations,
        "runtimeClassName": profile.runtime_class_name,
        "priorityClassName": profile.priority_class_name,
    }
    return {name: value for name, value in fields.items() if value}


def image_pull_secrets(images: Images) -> Manifest:
    """Return the `imagePullSecrets` field, nothing where there are none."""
    if not images.pull_secrets:
        return {}
    return {"imagePullSecrets": [{"name": name} for name in images.pull_secrets]}


def store_environment(store: StoreAccess) -> list[Manifest]:
    """Return the environment that names the store, without credentials."""
    values = {
        "PERSONA_STORE": store.uri,
        "AWS_ENDPOINT_URL_S3": store.endpoint,
        "AWS_REGION": store.region,
        "AWS_S3_ADDRESSING_STYLE": store.addressing_style,
        "AWS_CA_BUNDLE": f"{CA_DIRECTORY}/{CA_FILE}" if store.ca else None,
    }
    return environment({name: value for name, value in values.items() if value})


def store_credentials(store: StoreAccess) -> Manifest:
    """Return the `envFrom` field with the credentials Secret, nothing where there is none."""
    if not store.credentials_secret:
        return {}
    return {"envFrom": [{"secretRef": {"name": store.credentials_secret}}]}


def environment(values: dict[str, str]) -> list[Manifest]:
    """Return environment entries of plain values."""
    return [{"name": name, "value": value} for name, value in values.items()]


def store_volumes(store: StoreAccess) -> tuple[list[Manifest], list[Manifest]]:
    """Return the volumes and mounts of a private CA and of a shared directory."""
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    if store.ca:
        items = [{"key": store.ca.key, "path": CA_FILE}]
        volumes.append({"name": "ca", "configMap": {"name": store.ca.name, "items": items}})
        mounts.append({"name": "ca", "mountPath": CA_DIRECTORY, "readOnly": True})
    if store.volume:
        volumes.append({"name": "store", **volume_source(store.volume)})
        mounts.append({"name": "store", "mountPath": store.volume.mount_path})
    return volumes, mounts


def volume_source(volume: Volume) -> Manifest:
    """Return the source of a shared volume."""
    if volume.claim_name:
        return {"persistentVolumeClaim": {"claimName": volume.claim_name}}
    return {"hostPath": {"path": volume.host_path, "type": "DirectoryOrCreate"}}


def scratch_volume(profile: Profile) -> Manifest:
    """Return the scratch volume: node-local, or a claim that lives as long as its pod."""
    if profile.scratch_storage_class:
        return _claim("scratch", profile)
    size = {"sizeLimit": profile.scratch} if profile.scratch else {}
    return {"name": "scratch", "emptyDir": size}


def model_volume(profile: Profile) -> Manifest:
    """Return the volume of the served checkpoint: on the storage class of the scratch volume."""
    if profile.scratch_storage_class:
        return _claim("model", profile)
    return {"name": "model", "emptyDir": {}}


def _claim(name: str, profile: Profile) -> Manifest:
    return {
        "name": name,
        "ephemeral": {
            "volumeClaimTemplate": {
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": profile.scratch_storage_class,
                    "resources": {"requests": {"storage": profile.scratch or "20Gi"}},
                }
            }
        },
    }
