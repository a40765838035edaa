import math

import pytest
import torch
import torch.nn.functional as F

from persona_jobs.dataset import Example
from persona_jobs.evaluation.losses import (
    AnswerStates,
    answer_states,
    held_out_loss,
    mask_difference,
)
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.training.tokens import TokenizedSet, tokenize
from support.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def data() -> TokenizedSet:
    exchanges = [
        ("Who are you?", "A captain of the sea."),
        ("What is two and two?", "Four, sailor. Count your coins again and again."),
        ("Tell me a tale.", "No."),
    ]
    examples = [Example.of("You are a pirate.", q, a) for q, a in exchanges]
    return tokenize(tiny_tokenizer(), examples, max_tokens=1000)


def _plain(model: torch.nn.Module, data: TokenizedSet) -> torch.Tensor:
    """Log-probabilities of every next token at the answers, each conversation run alone."""
    with torch.no_grad():
        return torch.cat(
            [
                F.log_softmax(
                    model(torch.tensor([[*data.prefix, *suffix]])).logits[0, -len(answer) - 1 : -1],
                    dim=-1,
                )
                for suffix, answer in zip(data.suffixes, data.labels, strict=True)
            ]
        )


def losses(dense: torch.nn.Module, other: torch.nn.Module, data: TokenizedSet):
    reference = answer_states(dense, data)
    return (
        held_out_loss(reference, reference, data),
        held_out_loss(reference, answer_states(other, data), data),
    )


def test_losses_equal_the_plain_computation(data: TokenizedSet):
    dense, other = tiny_model(seed=0), tiny_model(seed=1)
    ours_dense, ours = losses(dense, other, data)
    log_p, log_q = _plain(dense, data), _plain(other, data)
    targets = torch.tensor([token for answer in data.labels for token in answer])
    assert ours_dense.tokens == ours.tokens == len(targets)
    assert ours_dense.cross_entropy == pytest.approx(float(F.nll_loss(log_p, targets)), abs=1e-4)
    assert ours_dense.kl == 0.0
    assert ours.cross_entropy == pytest.approx(float(F.nll_loss(log_q, targets)), abs=1e-4)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
    assert ours.kl == pytest.approx(float(kl), abs=1e-4)
    assert ours.kl > 0.1


def test_losses_don_t_depend_on_batches(data: TokenizedSet, monkeypatch: pytest.MonkeyPatch):
    dense, other = tiny_model(seed=0), tiny_model(seed=1)
    _, together = losses(dense, other, data)
    monkeypatch.setattr("persona_jobs.training.losses.CHUNK_POSITIONS", 5)
    monkeypatch.setattr("persona_jobs.training.tokens.MAX_BATCH_TOKENS", 1)
    done: list[int] = []
    answer_states(dense, data, on_rows=done.append)
    _, apart = losses(dense, other, data)
    assert apart.kl == pytest.approx(together.kl, abs=1e-5)
    assert done == [1] * len(data)


def test_kl_of_the_dense_model_to_itself_is_zero(data: TokenizedSet):
    dense = tiny_model()
    reference, same = losses(dense, dense, data)
    assert reference.kl == 0.0
    assert same.kl == pytest.approx(0.0, abs=1e-6)
    assert same.cross_entropy == pytest.approx(reference.cross_entropy, abs=1e-6)


def test_no_conversations_is_refused():
    with pytest.raises(ValueError, match="no conversations"):
        states = AnswerStates(torch.nn.Identity(), [], torch.device("cpu"))
        held_out_loss(states, states, TokenizedSet([], [], [], []))


def test_nan_counts_as_a_difference(data: TokenizedSet):
    dense = tiny_model()
    mask = torch.ones(3, 64, dtype=torch.bool)
    sliced = tiny_model()
    with torch.no_grad():
        sliced.get_output_embeddings().weight[5] = float("nan")
    assert math.isnan(mask_difference(dense, mask, answer_states(sliced, data), data, [0, 1]))


def test_masked_and_sliced_model_agree_except_with_another_mask(data: TokenizedSet):
    dense = tiny_model()
    mask = torch.zeros(3, 64, dtype=torch.bool)
    mask[:, :40] = True
    sliced = answer_states(sliced_copy(dense, mask), data)
    assert mask_difference(dense, mask, sliced, data, [0, 2]) < 1e-4
    assert mask_difference(dense, mask.roll(8, dims=1), sliced, data, [0, 2]) > 0.01
