"""The ConfigMap that hands a stage its PersonaModel manifest."""

import json
from typing import Any

from persona_jobs.api import PersonaModelSpec

from ..labels import common_labels
from .common import Manifest, Owner, checksum, metadata

MANIFEST_FILE = "manifest.json"


def stage_manifest(
    name: str, namespace: str, api_version: str, kind: str, spec: PersonaModelSpec
) -> dict[str, Any]:
    """The PersonaModel as stages read it: persona text resolved, defaults filled in.

    What no stage reads (serving, resources, gate, suspension) is left at its default, so that
    changing it touches no Job.
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
    """An immutable ConfigMap, named by its content: a running Job's can't change under it."""
    text = json.dumps(manifest, ensure_ascii=False, sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(
            owner,
            f"{owner.name}-manifest-{checksum(manifest)[:8]}",
            common_labels(owner.name, "manifest"),
        ),
        "immutable": True,
        "data": {MANIFEST_FILE: text},
    }
