"""Losses from hidden states against torch's own."""

import pytest
import torch
import torch.nn.functional as F

import persona_jobs.training.losses as losses


@pytest.fixture
def case():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, bias=False).requires_grad_(False)
    return head, torch.randn(11, 8), torch.randint(0, 20, (11,)), torch.randn(11, 8)


def test_kl_and_cross_entropy_by_hand(case):
    head, hidden, targets, dense = case
    p = F.softmax(head(dense), dim=-1)
    q = F.softmax(head(hidden), dim=-1)
    kl = float((p * (p / q).log()).sum())
    ce = float(-q[torch.arange(11), targets].log().sum())
    value = losses.answer_loss_value
    assert value(head, hidden, targets, dense, "KL") == pytest.approx(kl, rel=1e-5)
    assert value(head, hidden, targets, None, "CrossEntropy") == pytest.approx(ce, rel=1e-5)
    assert value(head, hidden, targets, dense, "Sum") == pytest.approx(kl + ce, rel=1e-5)
    assert value(head, dense, targets, dense, "KL") == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunked_backward_equals_the_plain_one(case, chunk, monkeypatch):
    head, hidden, targets, dense = case
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", chunk)
    plain = hidden.clone().requires_grad_(True)
    (0.5 * losses.answer_loss(head, plain, targets, dense, "Sum")).backward()
    source = hidden.clone().requires_grad_(True)
    total = losses.backward_answer_loss(head, source * 1.0, targets, dense, "Sum", scale=0.5)
    assert torch.allclose(source.grad, plain.grad, atol=1e-6)
    assert total == pytest.approx(losses.answer_loss_value(head, hidden, targets, dense, "Sum"))
