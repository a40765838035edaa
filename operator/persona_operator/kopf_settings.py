"""kopf's own settings: names, time limits, what is stored in annotations, what is watched."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import kopf

from persona_jobs.api import GROUP

from .labels import MANAGED_SELECTOR

CHILD_RESOURCES = (
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
    """Remembers of a PersonaModel only what deletion depends on.

    kopf would else copy the whole spec into an annotation: the persona's text twice, and
    annotations hold 262,144 bytes in all.
    """

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None
    ) -> kopf.BodyEssence:
        """The essence: the artifact policy alone."""
        essence = super().build(body=body, extra_fields=extra_fields)
        policy = essence.get("spec", {}).get("artifactPolicy")
        essence.clear()  # type: ignore[attr-defined]
        if policy is not None:
            essence["spec"] = {"artifactPolicy": policy}
        return essence


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up for this operator."""
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = SpecFreeDiffBaseStorage(
        prefix=GROUP, key="last-handled-configuration"
    )
    # The status tells everything; Events are posted by the controller, one for each transition.
    settings.posting.enabled = False
    settings.posting.level = logging.ERROR
    # The CRD comes with the chart, before the operator: no permission to watch CRDs is needed.
    settings.scanning.disabled = True
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 12)
    settings.process.ultimate_exiting_timeout = 30
    # Only the operator's own objects are sent at all.
    for group, plural in CHILD_RESOURCES:
        settings.watching.label_selectors[_selector(group, plural)] = MANAGED_SELECTOR


def seconds_since(moment: Any) -> float:
    """Seconds since a time that kopf remembers; 0 where it remembers none."""
    if not isinstance(moment, datetime):
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - aware).total_seconds()


def _selector(group: str, plural: str) -> tuple[str, str] | tuple[str, str, str]:
    return (group, plural) if group else ("", "v1", plural)
