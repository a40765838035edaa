"""Prefix-shared gradients against the plain batch."""

import pytest
import torch
import torch.nn.functional as F

from persona_jobs.dataset import Example
from persona_jobs.training.passes import (
    accumulate_gradient,
    mean_answer_loss,
    with_dense_hidden_states,
)
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

PERSONA = "You are a captain."
EXAMPLES = [
    Example.of(PERSONA, "Who are you?", "A captain, sailor."),
    Example.of(PERSONA, "Is tea better than coffee?", "Rum."),
    Example.of(PERSONA, "Why", "Because the tide says so and the wind agrees."),
    Example.of(PERSONA, "Count.", "One, two."),
]


@pytest.fixture
def data():
    return tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=500)


def plain_cross_entropy(model, data):
    """Sum over answer tokens, one whole sequence at a time."""
    total = torch.zeros(())
    for suffix, positions, labels in zip(data.suffixes, data.positions, data.labels, strict=True):
        logits = model(torch.tensor([data.prefix + suffix])).logits[0]
        chosen = logits[torch.tensor(positions) + len(data.prefix)]
        total = total + F.cross_entropy(chosen, torch.tensor(labels), reduction="sum")
    return total


def test_only_answer_tokens_are_labels(data):
    tokenizer = tiny_tokenizer()
    texts = [tokenizer.decode(labels) for labels in data.labels]
    assert texts == [f"{example.answer}<|im_end|>" for example in EXAMPLES]
    assert PERSONA in tokenizer.decode(data.prefix)


def test_a_cut_answer_does_not_teach_to_end():
    tokenizer = tiny_tokenizer()
    cut = EXAMPLES[0].model_copy(update={"ends": False})
    data = tokenize(tokenizer, [cut, EXAMPLES[1]], max_tokens=500)
    assert [tokenizer.decode(labels) for labels in data.labels] == [
        "A captain, sailor.",
        "Rum.<|im_end|>",
    ]


def test_longer_examples_are_left_out():
    shortest = tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=80)
    assert shortest.too_long > 0
    assert len(shortest) + shortest.too_long == len(EXAMPLES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
def test_weight_gradient_equals_the_plain_batch(family, micro_batch_size, data):
    model = tiny_model(family)
    weights = [p for n, p in model.named_parameters() if "down_proj.weight" in n]
    for weight in weights:
        weight.requires_grad_(True)
    (plain_cross_entropy(model, data) * 0.1).backward()
    expected = [weight.grad.clone() for weight in weights]
    for weight in weights:
        weight.grad = None
    total = accumulate_gradient(
        model,
        data,
        range(len(data)),
        "CrossEntropy",
        micro_batch_size=micro_batch_size,
        scale=0.1,
    )
    assert total == pytest.approx(float(plain_cross_entropy(model, data).detach()), rel=1e-4)
    for weight, gradient in zip(weights, expected, strict=True):
        assert gradient.abs().max() > 1e-3
        assert torch.allclose(weight.grad, gradient, atol=1e-4, rtol=1e-3)


def test_kl_of_the_dense_model_to_itself_is_zero(data):
    model = tiny_model()
    data = with_dense_hidden_states(model, data)
    assert [len(r) for r in data.dense_hidden_states] == [len(t) for t in data.labels]
    assert mean_answer_loss(model, data, "KL") == pytest.approx(0, abs=1e-5)
    other = tiny_model(seed=1)
    assert mean_answer_loss(other, data, "KL") > 0.01
