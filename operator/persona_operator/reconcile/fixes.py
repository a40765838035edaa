"""What an attempt of a stage depends on, as a hash: a change of it may fix a failure.

Another number of replicas, another gate or the profile of another stage fixes nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from persona_jobs.api.stages import UNKEYED_FIELDS
from persona_jobs.pipeline.graph import PlannedStage

from ..profiles import max_retries
from ..resources.common import checksum
from ..resources.job import template_checksum
from .context import Context

# Fields that stages don't read, or that are in the pod itself.
_NOT_READ = ("evaluation.gate.", "serving.", "storage.", "execution.", "suspend", "artifactPolicy")


def attempt_hash(context: Context, stage: PlannedStage) -> str:
    """Return a hash of the stage's key, its pod, the other fields it reads, and the retry."""
    # The ConfigMap's name is a hash of the whole spec, with what only other stages read.
    job = replace(context.stage_job(stage, 1), config_map="")
    document = context.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    read = [path for path in UNKEYED_FIELDS if path not in _NOT_READ]
    retries = max_retries(stage.name, context.spec.execution, context.settings.retry.max_retries)
    return checksum(
        [
            stage.key,
            template_checksum(job),
            {path: value for path in read if (value := _value(document, path)) is not None},
            retries,
            context.persona.retry,
        ]
    )


def _value(document: Any, path: str) -> Any:
    """Return the value at a path below `spec`, None where there is none."""
    for name in path.rstrip(".").split("."):
        if isinstance(document, list):
            document = [item.get(name) for item in document]
        elif isinstance(document, Mapping):
            document = document.get(name)
        else:
            return None
    return document
