"""Run one stage: find finished work, make what is missing, publish it.

The same code serves `python -m persona_jobs STAGE` in a container and `persona run` on a laptop.
"""

import errno
import importlib
import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from ..api import PersonaModelSpec
from ..errors import (
    InputError,
    OutOfMemoryError,
    PersonaError,
    StoreError,
    is_out_of_memory,
    missing_package,
)
from ..store import StageArtifacts, StageManifest, stage_path
from .context import Progress, SilentProgress, StageContext, StageOutcome, StopFlag, jsonable
from .graph import PlannedStage, plan
from .inputs import check_number_format, check_parameters
from .memory import lowerable_batch_size
from .results import Outcome

RECORDED_PACKAGES = ("persona-pruner", "torch", "transformers", "safetensors", "datasets")

# Where stages that are not always planned are switched on.
_SWITCHES = {"recover": "spec.recovery", "export": "spec.exports"}


@dataclass(frozen=True)
class StageReport:
    """Result of one stage.

    Attributes:
        stage: its name.
        key: its content key.
        outcome: `Done` or `Reused`.
        seconds: time that making it took (also when it was reused: then from its manifest).
        results: key figures.
        path: where its files are.
    """

    stage: str
    key: str
    outcome: Outcome
    seconds: float
    results: dict[str, JsonValue]
    path: str


def planned_stage(spec: PersonaModelSpec, name: str) -> PlannedStage:
    """Return the planned stage called `name`.

    Raises:
        InputError: the spec's pipeline has no such stage.
    """
    stages = plan(spec)
    for stage in stages:
        if stage.name == name:
            return stage
    raise InputError(
        f"Stage {name!r} is not part of this persona's pipeline",
        hint="Choose one of " + ", ".join(stage.name for stage in stages),
        subject=_SWITCHES.get(name, ""),
    )


def run_stage(
    spec: PersonaModelSpec,
    planned: PlannedStage,
    artifacts: StageArtifacts,
    *,
    cache: Path,
    scratch_root: Path | None = None,
    progress: Progress | None = None,
    stop: StopFlag | None = None,
) -> StageReport:
    """Make the stage's result unless the store has it, and publish it.

    Raises:
        PersonaError: the stage failed; what earlier stages made is untouched.
    """
    manifest = artifacts.finished(planned.name, planned.key)
    if manifest is not None:
        return _report(planned, artifacts, manifest, "Reused")
    stop = stop or StopFlag()
    stop.check()
    started = time.monotonic()
    with _expected_errors(spec, planned), _scratch(scratch_root, planned) as scratch:
        context = StageContext(
            spec=spec,
            planned=planned,
            artifacts=artifacts,
            output=scratch / "output",
            scratch=scratch / "work",
            cache=cache,
            progress=progress or SilentProgress(),
            stop=stop,
        )
        _check_inputs(context)
        context.output.mkdir()
        context.scratch.mkdir()
        outcome = _stage_function(planned.name)(context)
        seconds = time.monotonic() - started
        manifest = artifacts.publish(_manifest(planned, outcome, seconds), context.output)
    artifacts.clear_state(planned.name, planned.key)
    return _report(planned, artifacts, manifest, "Done")


def _check_inputs(context: StageContext) -> None:
    spec = context.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    manifests = context.input_manifests()
    check_parameters(manifests, spec)
    if context.spec.compute.dtype != "Auto":
        check_number_format(manifests, context.spec.compute.dtype.lower())


def _stage_function(name: str) -> Callable[[StageContext], StageOutcome]:
    module = importlib.import_module(f"persona_jobs.stages.{name}")
    return cast(Callable[[StageContext], StageOutcome], module.run)


def _manifest(planned: PlannedStage, outcome: StageOutcome, seconds: float) -> StageManifest:
    return StageManifest(
        stage=planned.name,
        stage_version=planned.version,
        key=planned.key,
        created_at=datetime.now(UTC),
        files={},
        inputs=dict(planned.inputs),
        parameters=planned.parameters,
        metrics=jsonable(outcome.results),
        timings={"total": round(seconds, 3)}
        | {name: round(value, 3) for name, value in outcome.timings.items()},
        versions=_versions(),
        environment=outcome.environment,
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _report(
    planned: PlannedStage, artifacts: StageArtifacts, manifest: StageManifest, outcome: Outcome
) -> StageReport:
    return StageReport(
        stage=planned.name,
        key=planned.key,
        outcome=outcome,
        seconds=manifest.timings.get("total", 0.0),
        results=manifest.metrics,
        path=artifacts.store.describe(stage_path(planned.name, planned.key)),
    )


@contextmanager
def _scratch(root: Path | None, planned: PlannedStage) -> Iterator[Path]:
    prefix = f"persona-{planned.name}-{planned.short_key}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True) as path:
        yield Path(path)


@contextmanager
def _expected_errors(spec: PersonaModelSpec, planned: PlannedStage) -> Iterator[None]:
    """Turn what may happen on any machine into errors that say what to do."""
    try:
        yield
    except PersonaError:
        raise
    except ImportError as error:
        if (error.name or "").startswith("persona_jobs"):
            raise  # a defect, not a missing package
        raise missing_package(error) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"No space is left for {error.filename or 'a file'} of the {planned.name} stage",
                hint="Free some space, or set TMPDIR (PERSONA_SCRATCH in a container) to another "
                "volume",
            ) from None
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = "The machine" if isinstance(error, MemoryError) else "The device"
        raise OutOfMemoryError(
            f"{where} ran out of memory in the {planned.name} stage",
            hint=_memory_hint(spec, planned.name),
        ) from None


def _memory_hint(spec: PersonaModelSpec, stage: str) -> str:
    batch_size = lowerable_batch_size(spec, stage)
    return (
        f"Lower {batch_size}, or give the stage more memory"
        if batch_size
        else "Give the stage more memory"
    )
