"""`persona plan`: what will run, what is reused, and what it will take."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from ..api import PersonaModelSpec
from ..dataset import Instruction
from ..estimates.machine import Machine, StageEstimate
from ..estimates.stages import Estimator
from ..estimates.workload import workload
from ..models.kept_channels import kept_channels
from ..sources import instructions
from ..sources.access import source_access
from ..sources.model_shape import model_shape
from ..store import StageArtifacts, stage_path
from ..store.artifacts import RESUME_FOLDER
from .local import uses_gpu
from .run import Pipeline, open_pipeline

State = Literal["reused", "resumes", "runs"]
# What one processor core and one GPU of the data centre reach in a forward pass.
CORE_FLOPS = 0.05e12
GPU_FLOPS = 100e12
MEMORY_BANDWIDTH = 15e9
GPU_BANDWIDTH = 1.5e12


@dataclass(frozen=True)
class Line:
    """One stage of the plan.

    Attributes:
        stage: its name.
        key: its content key.
        state: `reused` when its result is in the store, `resumes` when a part of it is.
        estimate: what it takes from its beginning.
    """

    stage: str
    key: str
    state: State
    estimate: StageEstimate


@dataclass(frozen=True)
class Plan:
    """The stages of a pipeline with their estimates.

    Attributes:
        lines: the stages in order.
        machine: the speeds that the times are based on.
        assumption: how many instructions were counted or assumed, a sentence.
    """

    lines: list[Line]
    machine: Machine
    assumption: str

    @property
    def ahead(self) -> list[Line]:
        """The stages that are not reused."""
        return [line for line in self.lines if line.state != "reused"]

    @property
    def seconds(self) -> float:
        """Time of all that is ahead."""
        return sum(line.estimate.seconds for line in self.ahead)

    @property
    def memory_bytes(self) -> int:
        """Largest peak memory of what is ahead."""
        return max((line.estimate.memory_bytes for line in self.ahead), default=0)

    @property
    def store_bytes(self) -> int:
        """Size of all results that are ahead."""
        return sum(line.estimate.store_bytes for line in self.ahead)

    @property
    def scratch_bytes(self) -> int:
        """Largest further disk space of what is ahead."""
        return max((line.estimate.scratch_bytes for line in self.ahead), default=0)

    @property
    def endpoint_tokens(self) -> int:
        """Tokens of the teacher's endpoint that are ahead."""
        return sum(line.estimate.endpoint_tokens for line in self.ahead)


def print_plan(
    file: Path, store_url: str | None, *, teraflops: float | None, as_json: bool
) -> None:
    """Print the plan of a PersonaModel.

    Raises:
        PersonaError: the PersonaModel, a source or the store can't be used.
    """
    pipeline = open_pipeline(file, store_url)
    plan = plan_of(pipeline, teraflops=teraflops)
    if as_json:
        sys.stdout.write(json.dumps(_document(pipeline, plan)) + "\n")
    else:
        _print_table(plan)


def plan_of(pipeline: Pipeline, *, teraflops: float | None = None) -> Plan:
    """Return the plan of a pipeline; loads neither weights nor torch.

    Args:
        pipeline: the resolved pipeline.
        teraflops: speed of the machine that will run it, in 10^12 operations per second; None
            for a usual one.
    """
    spec, artifacts = pipeline.resource.spec, pipeline.artifacts
    source = spec.base_model
    shape = model_shape(
        source.uri,
        source.revision if source.uri.startswith("hf://") else None,
        cache_dir=pipeline.cache,
        access=source_access("baseModel", source.endpoint, os.environ),
    )
    found, known = _instructions(pipeline)
    card = pipeline.card
    work = workload(spec, found, known, card.text if card else None)
    pruning = spec.pruning
    width = kept_channels(shape.intermediate_size, pruning.sparsity_percent, pruning.alignment)
    gpu = uses_gpu(spec)
    machine = _machine(gpu, teraflops)
    estimator = Estimator(spec, shape, work, width.count, machine)
    assumption = f"{work.queries:,} instructions"
    if found is None and known is None:
        assumption += " (spec.instructions.maxSamples, at most)"
    return Plan(
        [
            Line(
                stage.name,
                stage.key,
                _state(artifacts, stage.name, stage.key),
                estimator.of(stage.name),
            )
            for stage in pipeline.stages
        ],
        machine,
        assumption,
    )


def _machine(gpu: bool, teraflops: float | None) -> Machine:
    usual = GPU_FLOPS if gpu else CORE_FLOPS * (os.cpu_count() or 1)
    return Machine(
        flops=usual if teraflops is None else teraflops * 1e12,
        memory_bandwidth=GPU_BANDWIDTH if gpu else MEMORY_BANDWIDTH,
        gpu=gpu,
    )


def _state(artifacts: StageArtifacts, stage: str, key: str) -> State:
    if artifacts.finished(stage, key) is not None:
        return "reused"
    saved = artifacts.store.list(stage_path(stage, key, RESUME_FOLDER))
    return "resumes" if any(True for _ in saved) else "runs"


def _instructions(pipeline: Pipeline) -> tuple[list[Instruction] | None, int | None]:
    """Return the instructions, or only their number where they would have to be downloaded."""
    spec, artifacts = pipeline.resource.spec, pipeline.artifacts
    reference = next(stage for stage in pipeline.stages if stage.name == "reference")
    manifest = artifacts.finished("reference", reference.key)
    if manifest is not None and isinstance(count := manifest.metrics.get("queries"), int):
        known: int | None = count
    else:
        known = None
    if spec.instructions.uri.startswith("hf://"):
        return None, known
    return _read_instructions(spec, pipeline.cache), known


def _read_instructions(spec: PersonaModelSpec, cache: Path) -> list[Instruction]:
    source = spec.instructions
    columns = source.columns
    return instructions.load(
        source.uri,
        split=source.split,
        columns=instructions.Columns(columns.instruction, columns.input, columns.output),
        limit=source.max_samples,
        cache_dir=cache,
        access=source_access("instructions", source.endpoint, os.environ),
    ).instructions


def _document(pipeline: Pipeline, plan: Plan) -> dict[str, Any]:
    return {
        "name": pipeline.resource.metadata.name,
        "store": pipeline.artifacts.store.url,
        "stages": [
            {"stage": line.stage, "key": line.key, "state": line.state, **_fields(line.estimate)}
            for line in plan.lines
        ],
        "total": {
            "seconds": round(plan.seconds),
            "memoryBytes": plan.memory_bytes,
            "storeBytes": plan.store_bytes,
            "scratchBytes": plan.scratch_bytes,
            "endpointTokens": plan.endpoint_tokens,
        },
        "assumed": {
            "instructions": plan.assumption,
            "gpu": plan.machine.gpu,
            "teraflops": plan.machine.flops / 1e12,
        },
    }


def _fields(estimate: StageEstimate) -> dict[str, int]:
    def camel(name: str) -> str:
        first, *others = name.split("_")
        return first + "".join(part.capitalize() for part in others)

    return {camel(name): round(value) for name, value in asdict(estimate).items()}


def _print_table(plan: Plan) -> None:
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("")
    for heading in ("time", "memory", "store", "scratch", "endpoint tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in plan.lines:
        estimate = line.estimate
        cells = ("–",) * 5
        if line.state != "reused":
            cells = (
                duration(estimate.seconds),
                size(estimate.memory_bytes),
                size(estimate.store_bytes),
                size(estimate.scratch_bytes),
                f"{estimate.endpoint_tokens:,}" if estimate.endpoint_tokens else "–",
            )
        table.add_row(line.stage, line.state, *cells)
    console.print(table)
    console.print(
        f"{len(plan.ahead)} of {len(plan.lines)} stages are ahead: {summary(plan)}.",
        highlight=False,
        soft_wrap=True,
    )
    memory = "GPU memory" if plan.machine.gpu else "memory"
    console.print(
        f"Estimated for {plan.assumption} at {plan.machine.flops / 1e12:g} TFLOP/s; {memory} is an "
        "upper bound; store is what stays, scratch what is needed on the way.",
        highlight=False,
        soft_wrap=True,
    )


def summary(plan: Plan) -> str:
    """Return what is ahead in one clause."""
    parts = [
        f"about {duration(plan.seconds)}",
        f"at most {size(plan.memory_bytes)} of {'GPU ' if plan.machine.gpu else ''}memory",
        f"{size(plan.store_bytes + plan.scratch_bytes)} of disk",
    ]
    if plan.endpoint_tokens:
        parts.append(f"{plan.endpoint_tokens:,} endpoint tokens")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time that reads well, such as `3 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """Return a number of bytes that reads well, such as `3.1 GB`."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def expensive(plan: Plan) -> bool:
    """Return whether a user should see what is ahead before it starts."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    too_large = not plan.machine.gpu and plan.memory_bytes > memory
    return too_large or plan.seconds > 600 or plan.endpoint_tokens > 100_000
