"""kopf's own settings: names, time limits, stored annotations, watched resources."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import kopf

from persona_jobs.api import GROUP

from .labels import MANAGED_SELECTOR

OWNED_RESOURCES = (
    ("batch", "jobs"),
    ("", "pods"),
    ("apps", "deployments"),
    ("", "configmaps"),
    ("", "services"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("policy", "poddisruptionbudgets"),
)
FINALIZER = f"{GROUP}/artifacts"


class SpecFreeDiffBaseStorage(kopf.AnnotationsDiffBaseStorage):
    """Stores only the part of a PersonaModel that deletion depends on.

    By default kopf copies the whole spec into an annotation, the persona's text included, and
    all annotations of an object together hold at most 262,144 bytes.
    """

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None
    ) -> kopf.BodyEssence:
        """Return the stored part: the artifact policy alone."""
        essence = super().build(body=body, extra_fields=extra_fields)
        policy = essence.get("spec", {}).get("artifactPolicy")
        essence.clear()  # type: ignore[attr-defined]
        if policy is not None:
            essence["spec"] = {"artifactPolicy": policy}
        return essence


def configure(settings: kopf.OperatorSettings) -> None:
    """Configure kopf for this operator."""
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = SpecFreeDiffBaseStorage(
        prefix=GROUP, key="last-handled-configuration"
    )
    # The status reports everything; the controller posts Events, one per transition.
    settings.posting.enabled = False
    settings.posting.level = logging.ERROR
    # The chart installs the CRD before the operator: no permission to watch CRDs is needed.
    settings.scanning.disabled = True
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    # Whole lists of a thousand objects, and a task for each of them, would fill the memory.
    settings.watching.chunk_size = 250
    settings.queueing.idle_timeout = 1.0
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 12)
    settings.process.ultimate_exiting_timeout = 30
    # The API server sends no objects but the operator's own.
    for group, plural in OWNED_RESOURCES:
        settings.watching.label_selectors[_selector(group, plural)] = MANAGED_SELECTOR


def seconds_since(moment: Any) -> float:
    """Return the seconds since a time that kopf has stored, 0 where it has stored none."""
    if not isinstance(moment, datetime):
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - aware).total_seconds()


def _selector(group: str, plural: str) -> tuple[str, str] | tuple[str, str, str]:
    return (group, plural) if group else ("", "v1", plural)
