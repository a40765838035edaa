"""Estimates against a pipeline that was run, and against the constants of the code."""

import json
import shutil
import subprocess
import sys

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from persona_jobs.api import PersonaModelSpec
from persona_jobs.api.training import Pruning
from persona_jobs.estimates import parts
from persona_jobs.estimates import stages as formulas
from persona_jobs.estimates.machine import Machine
from persona_jobs.estimates.shape import from_config
from persona_jobs.estimates.stages import Estimator
from persona_jobs.estimates.workload import workload
from persona_jobs.evaluation.persona_score import OTHER_QUESTIONS
from persona_jobs.models.batching import MAX_BATCH_TOKENS
from persona_jobs.scoring.last_token import CHUNK_QUERIES
from persona_jobs.sources import instructions
from persona_jobs.stages.evaluate.stage import MAX_HELD_OUT_EXAMPLES
from persona_jobs.stages.export import MAX_MEASURED_EXAMPLES
from persona_jobs.training import distillation
from persona_jobs.training.losses import CHUNK_POSITIONS
from support.endpoint import Reply, completion, running_endpoint, user_text
from support.local_pipeline import environment, manifest, write_instructions
from support.stage_names import DEFAULT_STAGES
from support.stages import Stages, spec_of
from support.tiny import tiny_model

from .test_shape import LLAMA_3B, LLAMA_8B

MACHINE = Machine(flops=1e12, memory_bandwidth=1e11, gpu=False)


def as_the_captain(_number, body):
    question = user_text(body).split("<question>")[-1].split("</question>")[0].strip()
    return Reply(completion(f"Arr! Ye ask of {question} The tide of {len(question)} knows, aye."))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimates")
    write_instructions(folder / "many.jsonl", 300)
    with running_endpoint() as endpoint:
        endpoint.behave = as_the_captain
        spec = spec_of(
            folder,
            endpoint.url,
            instructions={"uri": f"file://{folder}/many.jsonl"},
            evaluation={"maxQueries": 3, "baseline": False, "genericSamples": 4},
        )
        stages = Stages(spec, folder, "store")
        for name in DEFAULT_STAGES:
            stages.run(name)
    return stages


@pytest.fixture(scope="module")
def estimator(made):
    found = instructions.load(made.spec.instructions.uri).instructions
    shape = from_config(tiny_model(intermediate_size=64).config.to_dict())
    return Estimator(made.spec, shape, workload(made.spec, found), 48, MACHINE)


@pytest.mark.parametrize(
    ("stage", "fixed", "tolerance"),
    [
        ("reference", 0, 0.03),
        ("score", 0, 0.05),
        ("rewrite", 0, 0.25),
        ("mask", 0, 0.05),
        ("recover", 0, 0.05),
        ("slice", formulas.TOKENIZER_BYTES, 0.05),
    ],
)
def test_results_have_the_estimated_size(made, estimator, stage, fixed, tolerance):
    names = {"slice": {"model.safetensors"}}.get(stage)
    files = made.files(stage)
    size = sum(len(data) for name, data in files.items() if not names or name in names)
    size -= len(files.get("curve.jsonl", b""))
    assert estimator.of(stage).store_bytes - fixed == pytest.approx(size, rel=tolerance)


def test_the_formulas_use_the_constants_of_the_code():
    assert parts.BATCH_TOKENS == MAX_BATCH_TOKENS
    assert parts.HEAD_POSITIONS == CHUNK_POSITIONS
    assert formulas.CHUNK_QUERIES == CHUNK_QUERIES
    assert parts.MAX_TRAIN_EXAMPLES == distillation.MAX_TRAIN_EXAMPLES
    assert formulas.MAX_VALIDATION_EXAMPLES == distillation.MAX_VALIDATION_EXAMPLES
    assert formulas.MAX_TEST_EXAMPLES == MAX_HELD_OUT_EXAMPLES
    assert formulas.OTHER_QUESTIONS == OTHER_QUESTIONS
    assert formulas.MAX_EXPORT_EXAMPLES == MAX_MEASURED_EXAMPLES
    for name, bits in formulas.EXPORT_BITS.items():
        weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        assert bits == 8 * size / weights


def test_the_endpoint_reads_and_writes_the_estimated_tokens(made, estimator):
    answers = sum(len(made.files("rewrite")[f"{name}.jsonl"].splitlines()) for name in SPLITS)
    assert estimator.of("rewrite").endpoint_tokens > 100 * answers
    assert all(
        estimator.of(name).endpoint_tokens == 0 for name in DEFAULT_STAGES if name != "rewrite"
    )


SPLITS = ("train", "validation", "test")


# Runs a stage and prints the peak of its own memory in KiB; ru_maxrss begins with the parent's.
PEAK_MEMORY = """
import re, sys
from pathlib import Path
from persona_jobs.__main__ import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


def peak_memory(made, stage, store):
    """Run a stage's process in a copy of the store, and return its largest resident memory."""
    shutil.copytree(made.folder / "store", made.folder / store)
    shutil.rmtree(made.folder / store / "stages" / stage)
    variables = {
        **environment(made.folder),
        "PERSONA_MANIFEST": str(made.folder / "resolved.json"),
        "PERSONA_STORE": f"file://{made.folder}/{store}",
        "PERSONA_SCRATCH": str(made.folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, stage], env=variables, capture_output=True, check=True
    )
    return int(done.stdout.split()[-1]) * 1024


@pytest.mark.parametrize("stage", ["reference", "recover"])
def test_memory_is_an_upper_bound_within_a_factor_of_three(made, estimator, stage):
    spec = made.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    document = {**manifest(made.folder, ""), "spec": spec}
    (made.folder / "resolved.json").write_text(json.dumps(document))
    measured = peak_memory(made, stage, f"{stage}-alone")
    assert measured <= estimator.of(stage).memory_bytes <= 3 * measured


def test_optimal_brain_surgeon_needs_its_matrices_and_streams(made):
    shape = from_config(LLAMA_3B)

    def mask(pruning):
        changed = Pruning.model_validate({"sparsityPercent": 25, **pruning})
        spec = made.spec.model_copy(update={"pruning": changed})
        return Estimator(spec, shape, workload(spec, None), 6144, MACHINE).of("mask")

    def learned(settings):
        return mask({"method": "StraightThrough", "straightThrough": settings})

    norm = mask({"method": "ActivationNorm"})
    surgeon = mask({"method": "OptimalBrainSurgeon"})
    d_ff, hidden = 8192, 3072
    assert surgeon.memory_bytes - norm.memory_bytes > 8 * d_ff * 5 * d_ff
    assert surgeon.memory_bytes - norm.memory_bytes < 8 * d_ff * (5 * d_ff + 4 * hidden) + 2e9
    assert surgeon.seconds > norm.seconds
    assert surgeon.store_bytes == norm.store_bytes
    assert norm.scratch_bytes == 0 < surgeon.scratch_bytes
    started = learned({"initialization": "OptimalBrainSurgeon"})
    assert started.seconds > surgeon.seconds
    assert started.memory_bytes > surgeon.memory_bytes
    factors = learned({"scales": True})
    plain = learned({})
    assert factors.store_bytes - plain.store_bytes == 4 * 28 * d_ff


@pytest.mark.parametrize("config", [LLAMA_3B, LLAMA_8B], ids=["3B", "8B"])
def test_no_stage_needs_more_than_the_model_and_what_it_trains(config, made):
    """With 52,000 instructions, memory is bounded by the model, not by the data."""
    spec = made.spec.model_copy(
        update={"instructions": made.spec.instructions.model_copy(update={"max_samples": 52_000})}
    )
    spec = spec.model_copy(
        update={"compute": spec.compute.model_copy(update={"dtype": "BFloat16"})}
    )
    shape = from_config(config)
    large = Estimator(spec, shape, workload(spec, None), shape.intermediate_size * 3 // 4, MACHINE)
    model = shape.parameters * 2
    assert (
        large.of("reference").store_bytes
        < 1.01 * 52_000 * shape.layers * (2 * shape.hidden_size + 4) + 52_000 * 500
    )
    for stage in ("reference", "score"):
        assert large.of(stage).memory_bytes < 2 * model + 4e9
    assert large.of("slice").memory_bytes < model


def test_judges_cost_tokens_for_five_answers_to_each_question():
    judge = {"name": "a", "openAI": {"baseURL": "http://judge/v1", "model": "m"}}
    few = {**judge, "name": "b", "maxQuestions": 2}
    spec = {"persona": {"text": "x" * 400}, "baseModel": {"uri": "hf://org/model"}}

    def tokens(*judges):
        evaluation = {"maxQueries": 8, "maxAnswerTokens": 100, "judges": list(judges)}
        model = PersonaModelSpec.model_validate({**spec, "evaluation": evaluation})
        shape = from_config(LLAMA_3B)
        found = Estimator(model, shape, workload(model, None), 6144, MACHINE).of("evaluate")
        return found.endpoint_tokens

    assert tokens() == 0
    # Task 130, persona 112, a query of 92 bytes 35, answer 100, verdict 16 tokens.
    assert tokens(judge) == 5 * 8 * (130 + 112 + 35 + 100 + 16)
    assert tokens(judge, few) == 5 * 10 * (130 + 112 + 35 + 100 + 16)
