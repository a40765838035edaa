"""Losses from hidden states against torch's own."""

import pytest
import torch
import torch.nn.functional as F

import persona_jobs.training.losses as losses
from support.tiny import tiny_model


@pytest.fixture
def case():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, bias=False).requires_grad_(False)
    return head, torch.randn(11, 8), torch.randint(0, 20, (11,)), torch.randn(11, 8)


def test_kl_and_cross_entropy_by_hand(case):
    head, hidden, labels, dense = case
    p = F.softmax(head(dense), dim=-1)
    q = F.softmax(head(hidden), dim=-1)
    kl = float((p * (p / q).log()).sum())
    ce = float(-q[torch.arange(11), labels].log().sum())
    value = losses.answer_loss_value
    assert value(head, hidden, labels, dense, "KL") == pytest.approx(kl, rel=1e-5)
    assert value(head, hidden, labels, None, "CrossEntropy") == pytest.approx(ce, rel=1e-5)
    assert value(head, hidden, labels, dense, "Sum") == pytest.approx(kl + ce, rel=1e-5)
    assert value(head, dense, labels, dense, "KL") == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunked_backward_equals_the_plain_one(case, chunk, monkeypatch):
    head, hidden, labels, dense = case
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", chunk)
    plain = hidden.clone().requires_grad_(True)
    (0.5 * losses.answer_loss(head, plain, labels, dense, "Sum")).backward()
    source = hidden.clone().requires_grad_(True)
    total = losses.backward_answer_loss(head, source * 1.0, labels, dense, "Sum", scale=0.5)
    assert torch.allclose(source.grad, plain.grad, atol=1e-6)
    assert total == pytest.approx(losses.answer_loss_value(head, hidden, labels, dense, "Sum"))


def test_chunks_cover_all_positions():
    covered = [index for part in losses.chunks(1400) for index in range(part.start, part.stop)]
    assert covered == list(range(1400))
    assert list(losses.chunks(0)) == []


def test_logits_are_float32_whatever_the_model_s_format():
    model = tiny_model().to(torch.bfloat16)
    hidden_states = torch.randn(3, 32, dtype=torch.bfloat16)
    result = losses.logits(model, hidden_states)
    assert result.dtype == torch.float32
    assert result.shape == (3, model.config.vocab_size)
