"""The ConfigMap from which the stages read their PersonaModel."""

import json
from typing import Any

from persona_jobs.api import PersonaModelSpec

from ..labels import common_labels
from .common import Manifest, Owner, checksum, object_metadata

MANIFEST_FILE = "manifest.json"


def stage_manifest(
    name: str, namespace: str, api_version: str, kind: str, spec: PersonaModelSpec
) -> dict[str, Any]:
    """Return the PersonaModel as stages read it: persona text resolved, defaults filled in.

    Fields that no stage reads (serving, resources, gate, suspension) stay at their defaults, so
    changing them affects no Job.
    """
    evaluation = spec.evaluation.model_copy(update={"gate": None})
    fields = {
        field: getattr(spec, field)
        for field in type(spec).model_fields
        if field not in {"serving", "execution", "suspend", "artifact_policy"}
    }
    stripped = PersonaModelSpec.model_construct(**{**fields, "evaluation": evaluation})
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": stripped.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def build_config_map(owner: Owner, manifest: dict[str, Any]) -> Manifest:
    """Build an immutable ConfigMap named by its content: it can't change while a Job runs."""
    text = json.dumps(manifest, ensure_ascii=False, sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object_metadata(
            owner,
            f"{owner.name}-manifest-{checksum(manifest)[:8]}",
            common_labels(owner.name, "manifest"),
        ),
        "immutable": True,
        "data": {MANIFEST_FILE: text},
    }
