"""Refit and fine-tuning together, with resume."""

import copy

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.errors import StageInterruptedError
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from persona_jobs.pipeline.context import SilentProgress
from persona_jobs.recovery.fine_tune import FineTuneConfig, RecoveryData
from persona_jobs.recovery.recover import RecoveryConfig, recover
from persona_jobs.training.distillation import DistillationDataset
from persona_jobs.training.passes import mean_answer_loss, with_dense_hidden_states
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer
from support.training import ResumeFrom, StopAfter, training_config

TUNING = FineTuneConfig(
    training=training_config(steps=8, learning_rate=0.003, evaluate_every=2, patience=9, warmup=1),
    generic_percent=25,
)


def examples(system, count):
    return [Example.of(system, f"Question {n}?", f"Answer {n * n}, aye.") for n in range(count)]


@pytest.fixture(scope="module")
def data():
    tokenizer = tiny_tokenizer()

    def tokens(items):
        return tokenize(tokenizer, items, max_tokens=500)

    persona, generic = examples("You are a captain.", 10), examples(None, 8)
    return RecoveryData(
        persona=DistillationDataset(tokens(persona[:7]), tokens(persona[7:])),
        generic=DistillationDataset(tokens(generic[:5]), tokens(generic[5:])),
    )


def slice_of(dense):
    mask = top_k_mask(torch.rand(3, 64, generator=torch.Generator().manual_seed(1)), 40)
    sliced = copy.deepcopy(dense)
    slice_model(sliced, mask)
    return sliced


def weights(model):
    return [layer.down.weight.clone() for layer in ffn_layers(model)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_lowers_the_kl(family, data, tmp_path):
    dense = tiny_model(family)
    validation = with_dense_hidden_states(dense, data.persona.validation)

    def kl(model):
        return mean_answer_loss(model, validation, "KL")

    sliced, refitted, tuned = (slice_of(dense) for _ in range(3))
    assert recover(dense, refitted, data, RecoveryConfig(0.1, None), scratch=tmp_path) is None
    trainer = recover(dense, tuned, data, RecoveryConfig(0.1, TUNING), scratch=tmp_path)
    assert kl(refitted) < kl(sliced)
    assert kl(tuned) < kl(refitted)
    assert trainer.curve[0].validation_loss > trainer.best_loss
    changed = {
        n for n, p in tuned.named_parameters() if not torch.equal(p, sliced.get_parameter(n))
    }
    assert changed == {n for n, _ in sliced.named_parameters() if n.endswith("down_proj.weight")}
    assert not any(p.requires_grad for p in tuned.parameters())


def test_without_generic_examples_the_persona_alone_is_used(data, tmp_path):
    dense = tiny_model()
    empty = tokenize(tiny_tokenizer(), [], max_tokens=500)
    alone = RecoveryData(data.persona, DistillationDataset(empty, empty))
    sliced = slice_of(dense)
    trainer = recover(dense, sliced, alone, RecoveryConfig(None, TUNING), scratch=tmp_path)
    assert trainer.best_loss < trainer.curve[0].validation_loss


def test_a_resumed_recovery_ends_with_the_same_weights(data, tmp_path):
    dense = tiny_model()
    config = RecoveryConfig(0.1, TUNING)
    whole = slice_of(dense)
    recover(dense, whole, data, config, scratch=tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    interrupted = slice_of(dense)
    with pytest.raises(StageInterruptedError):
        recover(
            dense,
            interrupted,
            data,
            config,
            scratch=tmp_path,
            control=StopAfter(3, state),
        )
    parts = []

    class Parts(SilentProgress):
        def begin(self, what, total):
            parts.append(what)

    resumed = slice_of(dense)
    recover(
        dense,
        resumed,
        data,
        config,
        scratch=tmp_path,
        progress=Parts(),
        control=ResumeFrom(state),
    )
    assert parts == ["dense reference", "fine-tuning steps"]
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(one, other)
