"""Refit and fine-tuning together, with resume."""

import copy

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.errors import StageInterruptedError
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.recover import (
    FineTuneSettings,
    RecoveryData,
    RecoveryHooks,
    RecoverySettings,
    recover,
)
from persona_jobs.training.passes import dense_references, mean_answer_loss
from persona_jobs.training.tokens import tokenize
from persona_jobs.training.trainer import LoopSettings
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer
from support.training import StopAfter

TUNING = FineTuneSettings(
    loop=LoopSettings(steps=8, learning_rate=0.003, evaluate_every=2, patience=9, warmup=1),
    batch_size=4,
    micro_batch_size=2,
    generic_percent=25,
    seed=3,
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
        train=tokens(persona[:7]),
        validation=tokens(persona[7:]),
        generic_train=tokens(generic[:5]),
        generic_validation=tokens(generic[5:]),
    )


def cut_of(dense):
    cut = copy.deepcopy(dense)
    slice_model(cut, top_k_mask(torch.rand(3, 64, generator=torch.Generator().manual_seed(1)), 40))
    return cut


def weights(model):
    return [layer.down.weight.clone() for layer in ffn_layers(model)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_lowers_the_kl(family, data, tmp_path):
    dense = tiny_model(family)
    references = dense_references(dense, data.validation)

    def kl(model):
        return mean_answer_loss(model, data.validation, references, "KL")

    cut, refitted, tuned = (cut_of(dense) for _ in range(3))
    assert recover(dense, refitted, data, RecoverySettings(0.1, None), scratch=tmp_path) is None
    loop = recover(dense, tuned, data, RecoverySettings(0.1, TUNING), scratch=tmp_path)
    assert kl(refitted) < kl(cut)
    assert kl(tuned) < kl(refitted)
    assert loop.curve[0].validation_loss > loop.best_loss
    changed = {n for n, p in tuned.named_parameters() if not torch.equal(p, cut.get_parameter(n))}
    assert changed == {n for n, _ in cut.named_parameters() if n.endswith("down_proj.weight")}
    assert not any(p.requires_grad for p in tuned.parameters())


def test_without_generic_examples_the_persona_alone_is_used(data, tmp_path):
    dense = tiny_model()
    empty = tokenize(tiny_tokenizer(), [], max_tokens=500)
    alone = RecoveryData(data.train, data.validation, empty, empty)
    cut = cut_of(dense)
    loop = recover(dense, cut, alone, RecoverySettings(None, TUNING), scratch=tmp_path)
    assert loop.best_loss < loop.curve[0].validation_loss


def test_a_resumed_recovery_ends_with_the_same_weights(data, tmp_path):
    dense = tiny_model()
    settings = RecoverySettings(0.1, TUNING)
    whole = cut_of(dense)
    recover(dense, whole, data, settings, scratch=tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    interrupted = cut_of(dense)
    with pytest.raises(StageInterruptedError):
        recover(
            dense,
            interrupted,
            data,
            settings,
            scratch=tmp_path,
            hooks=RecoveryHooks(control=StopAfter(3, state)),
        )
    refits = []

    def resume(loop):
        loop.read(state)
        return True

    resumed = cut_of(dense)
    recover(
        dense,
        resumed,
        data,
        settings,
        scratch=tmp_path,
        hooks=RecoveryHooks(resume=resume, begin=lambda what, _n: refits.append(what)),
    )
    assert "refitted layers" not in refits
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(one, other)
