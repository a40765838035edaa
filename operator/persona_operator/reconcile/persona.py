"""The PersonaModel as the reconciler sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from persona_jobs.api.status import PersonaModelStatus

from ..labels import RETRY_ANNOTATION
from ..resources.common import Owner


@dataclass(frozen=True)
class Persona:
    """One PersonaModel as read from the API server.

    Attributes:
        owner: its name, namespace and uid.
        generation: counts the changes of its spec.
        manifest: the object without its status, not validated yet.
        status: what the operator last wrote.
        raw_status: the same, undecoded.
        labels: its labels.
        annotations: its annotations.
        deleting: whether it has been deleted and waits for finalizers.
    """

    owner: Owner
    generation: int
    manifest: Mapping[str, Any]
    status: PersonaModelStatus = field(default_factory=PersonaModelStatus)
    raw_status: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    deleting: bool = False

    @classmethod
    def from_object(cls, document: Mapping[str, Any]) -> "Persona":
        """Read an object of the API server; a status that makes no sense counts as empty."""
        head = document.get("metadata", {})
        raw_status = document.get("status") or {}
        try:
            status = PersonaModelStatus.model_validate(raw_status)
        except ValidationError:
            status = PersonaModelStatus()
        return cls(
            owner=Owner(head["name"], head["namespace"], head["uid"]),
            generation=int(head.get("generation", 0)),
            manifest={
                "apiVersion": document.get("apiVersion"),
                "kind": document.get("kind"),
                "metadata": {"name": head["name"], "namespace": head["namespace"]},
                "spec": document.get("spec"),
            },
            status=status,
            raw_status=raw_status,
            labels=head.get("labels") or {},
            annotations=head.get("annotations") or {},
            deleting=head.get("deletionTimestamp") is not None,
        )

    @property
    def retry(self) -> str | None:
        """Value of the retry annotation."""
        return self.annotations.get(RETRY_ANNOTATION)


def text_reference(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """ConfigMap name and key that hold the persona's text, None where the spec holds it."""
    spec = manifest.get("spec")
    persona = spec.get("persona") if isinstance(spec, Mapping) else None
    reference = persona.get("configMapRef") if isinstance(persona, Mapping) else None
    if not isinstance(reference, Mapping):
        return None
    name, key = reference.get("name"), reference.get("key")
    return (name, key) if isinstance(name, str) and isinstance(key, str) else None
