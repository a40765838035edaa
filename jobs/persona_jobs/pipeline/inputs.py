"""A stage refuses results of other stages that its own spec would not lead to.

A content key stands for everything that a result depends on, so such a result lies under a wrong
key: it was copied there, or made by a process that chose another number format.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..api.stages import stage
from ..errors import InputError
from ..store import StageManifest
from .graph import stage_parameters

# A checkpoint's number format is that of the base model's files, in which nothing is computed.
_NOT_COMPUTED = frozenset({"slice"})


def check_parameters(manifests: Iterable[StageManifest], spec: Mapping[str, Any]) -> None:
    """Compare the recorded spec fields of finished stages, sources included, with the spec.

    Args:
        manifests: the records of the stages whose results are read.
        spec: the resolved spec as JSON.

    Raises:
        InputError: a stage was run with another value.
    """
    for manifest in manifests:
        wanted = stage_parameters(stage(manifest.stage), spec)
        recorded = manifest.parameters
        for path in sorted(wanted.keys() | recorded.keys()):
            if wanted.get(path) != recorded.get(path):
                raise InputError(
                    f"The result of stage {manifest.stage} was made with {path} "
                    f"{_shown(recorded.get(path))}, but the spec has {_shown(wanted.get(path))}",
                    hint=f"Delete the folder stages/{manifest.stage}/{manifest.key} of the store, "
                    "and run again",
                    subject=f"spec.{path}",
                )


def check_number_format(manifests: Iterable[StageManifest], dtype: str) -> None:
    """Compare the number format in which finished stages computed with this stage's.

    Args:
        manifests: the records of the stages whose results are read.
        dtype: name of the number format, such as `float32`.

    Raises:
        InputError: a stage computed in another one.
    """
    for manifest in manifests:
        recorded = manifest.environment.get("dtype", dtype)
        if manifest.stage not in _NOT_COMPUTED and recorded != dtype:
            raise InputError(
                f"Stage {manifest.stage} computed in {recorded}, but this stage computes in "
                f"{dtype}",
                hint="Set spec.compute.dtype, so that all stages compute in one number format, "
                "and run again",
                subject="spec.compute.dtype",
            )


def _shown(value: object) -> str:
    text = "no value" if value is None else repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
