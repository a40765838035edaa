"""The PersonaModel as the reconciler sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from persona_jobs.api.status import PersonaModelStatus

from ..labels import RETRY_ANNOTATION
from ..resources.common import Owner


@dataclass(frozen=True)
class Persona:
    """One PersonaModel as read from the API server.

    Attributes:
        owner: its name, namespace and uid.
        generation: counts the changes of its spec.
        resource: the object without its status, not validated yet.
        status: what the operator last wrote.
        raw_status: the same, undecoded.
        labels: its labels.
        annotations: its annotations.
        deleting: whether it has been deleted and waits for finalizers.
    """

    owner: Owner
    generation: int
    resource: Mapping[str, Any]
    status: PersonaModelStatus = field(default_factory=PersonaModelStatus)
    raw_status: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    deleting: bool = False

    @classmethod
    def from_object(cls, document: Mapping[str, Any]) -> "Persona":
        """Read an object of the API server."""
        metadata = document.get("metadata", {})
        raw_status = document.get("status") or {}
        return cls(
            owner=Owner(metadata["name"], metadata["namespace"], metadata["uid"]),
            generation=int(metadata.get("generation", 0)),
            resource={
                "apiVersion": document.get("apiVersion"),
                "kind": document.get("kind"),
                "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
                "spec": document.get("spec"),
            },
            status=PersonaModelStatus.read(raw_status),
            raw_status=raw_status,
            labels=metadata.get("labels") or {},
            annotations=metadata.get("annotations") or {},
            deleting=metadata.get("deletionTimestamp") is not None,
        )

    @property
    def retry(self) -> str | None:
        """Return the value of the retry annotation."""
        return self.annotations.get(RETRY_ANNOTATION)


def text_reference(resource: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the ConfigMap name and key of the persona's text, None where the spec holds it."""
    spec = resource.get("spec")
    persona = spec.get("persona") if isinstance(spec, Mapping) else None
    reference = persona.get("configMapRef") if isinstance(persona, Mapping) else None
    if not isinstance(reference, Mapping):
        return None
    name, key = reference.get("name"), reference.get("key")
    return (name, key) if isinstance(name, str) and isinstance(key, str) else None


def recipe_reference(resource: Mapping[str, Any]) -> str | None:
    """Return the name of the PersonaRecipe that a PersonaModel names, None where it names none."""
    spec = resource.get("spec")
    reference = spec.get("recipeRef") if isinstance(spec, Mapping) else None
    name = reference.get("name") if isinstance(reference, Mapping) else None
    return name if isinstance(name, str) else None
