"""The figures of docs/design/cost.md are those of the formulas."""

from pathlib import Path

import pytest

from persona_jobs.api import parse_resource
from persona_jobs.cli.plan import GPU_BANDWIDTH, GPU_FLOPS, duration, size
from persona_jobs.estimates.machine import Machine
from persona_jobs.estimates.shape import from_config
from persona_jobs.estimates.stages import Estimator
from persona_jobs.estimates.workload import workload
from support.stage_names import DEFAULT_STAGES

from .test_shape import LLAMA_3B, LLAMA_8B

PAGE = Path(__file__).parents[3] / "docs" / "design" / "cost.md"
GPU = Machine(flops=GPU_FLOPS, memory_bandwidth=GPU_BANDWIDTH, gpu=True)


def rows(config):
    """The page's table: 52,000 instructions, bfloat16, a GPU, an endpoint as teacher."""
    spec = {
        "persona": {"text": "x" * 800},
        "baseModel": {"uri": "hf://meta-llama/model"},
        "instructions": {"uri": "hf://tatsu-lab/alpaca", "maxSamples": 52_000},
        "teacher": {"openAI": {"baseURL": "https://api.example.com/v1", "model": "m"}},
        "compute": {"dtype": "BFloat16", "device": "CUDA"},
    }
    head = {"apiVersion": "persona-pruner.io/v1alpha1", "kind": "PersonaModel"}
    resource = parse_resource({**head, "metadata": {"name": "x"}, "spec": spec})
    shape = from_config(config)
    work = workload(resource.spec, None)
    estimator = Estimator(resource.spec, shape, work, shape.intermediate_size * 3 // 4, GPU)
    for stage in DEFAULT_STAGES:
        estimate = estimator.of(stage)
        cells = [
            duration(estimate.seconds),
            size(estimate.memory_bytes),
            size(estimate.store_bytes),
            size(estimate.scratch_bytes),
        ]
        yield f"| {stage} | " + " | ".join(cells) + " |"


@pytest.mark.parametrize("config", [LLAMA_3B, LLAMA_8B], ids=["3B", "8B"])
def test_the_tables_hold_what_the_formulas_give(config):
    text = PAGE.read_text(encoding="utf-8")
    missing = [row for row in rows(config) if row not in text]
    assert not missing, "\n".join(rows(config))
