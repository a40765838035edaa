"""The recover stage: what it reports is what the sliced checkpoint does."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from persona_jobs.dataset import Example, ScoredQuery, generic_split, read_jsonl
from persona_jobs.errors import StageInterruptedError
from persona_jobs.models.chat import conversation
from persona_jobs.pipeline.results import RecoveryMetrics
from support.endpoint import in_character, running_endpoint
from support.stages import Stages, StopAfter, spec_of
from support.tiny import tiny_tokenizer


@pytest.fixture(scope="module", params=["Down", "LoRA"])
def made(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("recover")
    tuning = {"enabled": True, "weights": request.param, "steps": 2, "batchSize": 4}
    with running_endpoint() as endpoint:
        endpoint.behave = in_character
        stages = Stages(
            spec_of(folder, endpoint.url, recovery={"fineTune": tuning}), folder, "store"
        )
        stages.run_before("evaluate")
    return stages


def plain_kl(dense, model, examples):
    """KL(dense || model) per answer token, by the library's forward pass on whole sequences."""
    total, count = 0.0, 0
    for example in examples:
        given = conversation(
            tiny_tokenizer(), example.system, example.query, example.answer, ends=example.ends
        )
        ids = torch.tensor([given.ids])
        with torch.no_grad():
            log_p, log_q = (m(ids).logits[0].log_softmax(-1) for m in (dense, model))
        answer = slice(given.answer_start - 1, len(given.ids) - 1)
        total += float((log_p.exp() * (log_p - log_q))[answer].sum())
        count += len(given.ids) - given.answer_start
    return total / count


def test_the_reported_divergence_is_that_of_the_sliced_checkpoint(made):
    report = RecoveryMetrics.model_validate(made.run("recover").results)
    assert report.kept
    assert {part.name for part in report.parts} == {"refit", "reconstruct", "fineTune"}
    dense = AutoModelForCausalLM.from_pretrained(made.folder / "base", dtype=torch.float32)
    folder = made.artifacts.local_dir("slice", made.planned["slice"].key)
    sliced = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    files = {
        stage: made.artifacts.local_dir(stage, made.planned[stage].key)
        for stage in ("rewrite", "score", "recover")
    }
    persona = read_jsonl(files["rewrite"] / "validation.jsonl", Example)
    assert report.persona_kl == pytest.approx(plain_kl(dense, sliced, persona), rel=1e-3)
    queries = read_jsonl(files["score"] / "queries.jsonl", ScoredQuery)
    generic = generic_split(queries)["validation"]
    assert report.generic_kl == pytest.approx(plain_kl(dense, sliced, generic), rel=1e-3)
    stored = load_file(files["recover"] / "recovered.safetensors")
    assert stored
    for name, weight in stored.items():
        assert torch.equal(weight, sliced.get_parameter(name))


@pytest.mark.parametrize("part", ["refitted layers", "reconstructed blocks", "fine-tuning steps"])
def test_a_stopped_recovery_resumes_to_the_same_files(made, part):
    store = f"stopped-{part.split()[0]}"
    shutil.copytree(made.folder / "store", made.folder / store)
    stages = Stages(made.spec, made.folder, store)
    shutil.rmtree(made.folder / store / "stages/recover")
    with pytest.raises(StageInterruptedError):
        stages.run("recover", StopAfter(part, 1))
    progress = StopAfter()
    stages.run("recover", progress)
    assert any(note.startswith("resuming after") for note in progress.notes)
    assert stages.files("recover") == made.files("recover")
