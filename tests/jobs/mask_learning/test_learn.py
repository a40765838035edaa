"""Mask learning on tiny models."""

from dataclasses import replace

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.mask_learning.activation_rms import activation_rms
from persona_jobs.mask_learning.initial_scores import scores_from_rank
from persona_jobs.mask_learning.learn import (
    MaskProblem,
    held_out_loss,
    learn,
    mask_trainer,
    score_gradient,
)
from persona_jobs.models.topk import top_k_mask
from persona_jobs.training.distillation import DistillationDataset
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer
from support.training import training_config

PERSONA = "You are a captain."
QUERIES = ["Who are you?", "Sing.", "What is rum?", "Where do you live?", "Why so sad?", "Go!"]
EXAMPLES = [Example.of(PERSONA, q, f"Aye, {q.lower()} Ask the sea.") for q in QUERIES]


def make_problem(family="llama", objective="KL", kept_channels=32):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    data = DistillationDataset(
        train=tokenize(tokenizer, EXAMPLES[:4], max_tokens=500),
        validation=tokenize(tokenizer, EXAMPLES[4:], max_tokens=500),
    )
    return MaskProblem(model, data.with_dense_hidden_states(model), kept_channels, objective)


def start(problem):
    return scores_from_rank(activation_rms(problem.model, problem.data.train))


@pytest.mark.parametrize("objective", ["KL", "CrossEntropy", "Sum"])
def test_score_gradient_does_not_depend_on_micro_batches(objective):
    problem = make_problem(objective=objective)
    gradients = []
    for size in (1, 2, 4):
        scores = start(problem).requires_grad_(True)
        score_gradient(problem, scores, range(4), micro_batch_size=size)
        gradients.append(scores.grad)
    assert gradients[0].abs().max() > 1e-5
    for gradient in gradients[1:]:
        assert torch.allclose(gradient, gradients[0], atol=1e-5, rtol=1e-3)


def test_score_gradient_is_the_masks_own_gradient():
    """Straight through: d loss / d z equals d loss / d mask, also for pruned channels."""
    problem = make_problem(objective="CrossEntropy")
    scores = start(problem).requires_grad_(True)
    loss = score_gradient(problem, scores, [0, 1], micro_batch_size=2)
    mask = top_k_mask(scores, problem.kept_channels).float()
    layer = int(scores.grad.abs().max(dim=1).values.argmax())
    channel = int(scores.grad[layer].abs().argmax())

    def loss_at(value):
        changed = mask.clone()
        changed[layer, channel] = value
        from persona_jobs.models.masking import masked

        total, count = 0.0, 0
        with masked(problem.model, changed), torch.no_grad():
            for row in (0, 1):
                data = problem.data.train
                logits = problem.model(torch.tensor([data.prefix + data.suffixes[row]])).logits[0]
                at = torch.tensor(data.positions[row]) + len(data.prefix)
                total += float(
                    torch.nn.functional.cross_entropy(
                        logits[at].double(), torch.tensor(data.labels[row]), reduction="sum"
                    )
                )
                count += len(data.labels[row])
        return total / count

    assert loss == pytest.approx(loss_at(float(mask[layer, channel])), rel=1e-4)
    step = 1e-2
    here = float(mask[layer, channel])
    slope = (loss_at(here + step) - loss_at(here - step)) / (2 * step)
    assert float(scores.grad[layer, channel]) == pytest.approx(slope, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_lowers_the_loss_it_follows_and_touches_no_weight(family):
    problem = make_problem(family)
    train = problem.data.train
    problem = replace(problem, data=DistillationDataset(train=train, validation=train))
    before = {n: p.clone() for n, p in problem.model.named_parameters()}
    scores = start(problem)
    first = held_out_loss(problem, scores)
    config = training_config(steps=30, learning_rate=0.01, patience=20, micro_batch_size=4, seed=0)
    trainer = mask_trainer(scores.clone(), config)
    best = learn(problem, trainer)
    assert held_out_loss(problem, best) == pytest.approx(trainer.best_loss, rel=1e-5)
    assert trainer.best_loss < first
    assert (
        top_k_mask(best, problem.kept_channels).sum(dim=1).tolist() == [problem.kept_channels] * 3
    )
    for name, parameter in problem.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_learning_is_deterministic():
    config = training_config(steps=6, learning_rate=0.1, batch_size=2, micro_batch_size=1, seed=5)
    results = []
    for _ in range(2):
        problem = make_problem()
        results.append(learn(problem, mask_trainer(start(problem), config)))
    assert torch.equal(*results)
