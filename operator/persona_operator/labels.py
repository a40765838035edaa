"""Names, labels and annotations of all objects that the operator creates."""

from collections.abc import Mapping
from typing import Any

from persona_jobs.api import API_VERSION, GROUP, KIND
from persona_jobs.pipeline.graph import short_key

FIELD_MANAGER = "persona-operator"

NAME_LABEL = "app.kubernetes.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"
PERSONA_LABEL = f"{GROUP}/persona"
STAGE_LABEL = f"{GROUP}/stage"
KEY_LABEL = f"{GROUP}/key"
REVISION_LABEL = f"{GROUP}/revision"

RETRY_ANNOTATION = f"{GROUP}/retry"
CHECKSUM_ANNOTATION = f"{GROUP}/checksum"
KEY_ANNOTATION = f"{GROUP}/key"
ATTEMPT_ANNOTATION = f"{GROUP}/attempt"
STORE_ANNOTATION = f"{GROUP}/store"
TEMPLATE_ANNOTATION = f"{GROUP}/template"
SUSPENDED_ANNOTATION = f"{GROUP}/suspended"

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"

STAGE_CONTAINER = "stage"
SERVING_CONTAINER = "serve"
FETCH_CONTAINER = "fetch"

MANAGED_SELECTOR = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
MAX_LABEL_LENGTH = 63


def common_labels(persona: str, component: str) -> dict[str, str]:
    """Return the labels of every object of a persona."""
    return {
        NAME_LABEL: "persona-pruner",
        MANAGED_BY_LABEL: FIELD_MANAGER,
        COMPONENT_LABEL: component,
        PERSONA_LABEL: persona,
    }


def key_label(key: str) -> str:
    """Return the part of a content key that fits in a label."""
    return key[:MAX_LABEL_LENGTH]


def job_name(persona: str, stage: str, key: str, attempt: int) -> str:
    """Return `<persona>-<stage>-<key8>`, with `-<attempt>` from the second attempt on."""
    name = f"{persona}-{stage}-{short_key(key)}"
    return name if attempt <= 1 else f"{name}-{attempt}"


def owner_reference(name: str, uid: str) -> dict[str, Any]:
    """Return an owner reference: the object is deleted together with its PersonaModel."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def is_managed(labels: Mapping[str, str]) -> bool:
    """Return whether the operator created an object with these labels."""
    return labels.get(MANAGED_BY_LABEL) == FIELD_MANAGER
