"""Mask learning on tiny models."""

from dataclasses import replace

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.mask_learning.activation_rms import activation_rms
from persona_jobs.mask_learning.initial_scores import scores_from_rank
from persona_jobs.mask_learning.learn import (
    SCALE_STEP,
    SCALES,
    SCORES,
    MaskProblem,
    add_gradient,
    held_out_loss,
    learn,
    mask_trainer,
)
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import sliced_copy
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
        add_gradient(problem, {SCORES: scores}, range(4), micro_batch_size=size)
        gradients.append(scores.grad)
    assert gradients[0].abs().max() > 1e-5
    for gradient in gradients[1:]:
        assert torch.allclose(gradient, gradients[0], atol=1e-5, rtol=1e-3)


def test_score_gradient_is_the_masks_own_gradient():
    """Straight through: d loss / d z equals d loss / d mask, also for pruned channels."""
    problem = make_problem(objective="CrossEntropy")
    scores = start(problem).requires_grad_(True)
    loss = add_gradient(problem, {SCORES: scores}, [0, 1], micro_batch_size=2)
    mask = top_k_mask(scores, problem.kept_channels).float()
    layer = int(scores.grad.abs().max(dim=1).values.argmax())
    channel = int(scores.grad[layer].abs().argmax())

    def loss_at(value):
        changed = mask.clone()
        changed[layer, channel] = value
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
    first = held_out_loss(problem, {SCORES: scores})
    config = training_config(steps=30, learning_rate=0.01, patience=20, micro_batch_size=4, seed=0)
    trainer = mask_trainer(scores.clone(), config)
    best = learn(problem, trainer).scores
    assert held_out_loss(problem, {SCORES: best}) == pytest.approx(trainer.best_loss, rel=1e-5)
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
        results.append(learn(problem, mask_trainer(start(problem), config)).scores)
    assert torch.equal(*results)


def test_the_gradient_of_a_factor_is_its_slope():
    problem = make_problem(objective="CrossEntropy")
    scores = start(problem)
    generator = torch.Generator().manual_seed(1)
    shifts = 0.5 * torch.randn(scores.shape, generator=generator)
    parameters = {SCORES: scores.requires_grad_(True), SCALES: shifts.requires_grad_(True)}
    rows = range(len(problem.data.train))
    add_gradient(problem, parameters, rows, micro_batch_size=2)
    gradient = parameters[SCALES].grad
    mask = top_k_mask(scores, problem.kept_channels)
    assert not gradient[~mask].any(), "a removed channel has no factor to learn"
    layer, channel = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    same = replace(
        problem, data=DistillationDataset(train=problem.data.train, validation=problem.data.train)
    )

    def loss_at(step):
        changed = shifts.detach().clone()
        changed[layer, channel] += step
        return held_out_loss(same, {SCORES: scores, SCALES: changed})

    slope = (loss_at(0.05) - loss_at(-0.05)) / 0.1
    assert float(gradient[layer, channel]) == pytest.approx(slope, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_learned_and_folded_into_the_sliced_model(family):
    problem = make_problem(family)
    config = training_config(steps=8, learning_rate=0.1, patience=20, micro_batch_size=4, seed=0)
    trainer = mask_trainer(start(problem), config, with_scales=True)
    learned = learn(problem, trainer)
    # The last parameters, not the best ones, so that the factors have surely moved.
    mask = top_k_mask(trainer.parameters[SCORES], problem.kept_channels)
    scales = 1 + SCALE_STEP * trainer.parameters[SCALES].detach()
    assert (scales[mask] - 1).abs().max() > 0.01
    assert learned.scales.shape == learned.scores.shape
    data = problem.data.validation
    ids = torch.tensor([data.prefix + data.suffixes[0]])
    with masked(problem.model, mask * scales):
        expected = problem.model(ids).logits
    sliced = sliced_copy(problem.model, mask, scales=scales)
    assert torch.allclose(sliced(ids).logits, expected, atol=1e-4, rtol=1e-4)
    plain = sliced_copy(problem.model, mask)
    assert not torch.allclose(plain(ids).logits, expected, atol=1e-2)


def test_without_factors_none_are_returned():
    problem = make_problem()
    trainer = mask_trainer(start(problem), training_config(steps=1, seed=0))
    assert learn(problem, trainer).scales is None
