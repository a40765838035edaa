"""The ways of ranking channels that are compared, behind one interface.

Each takes a `Problem` and returns a `Ranking`; the channels with the largest scores stay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from persona_jobs.mask_learning.activation_rms import activation_rms
from persona_jobs.mask_learning.initial_scores import random_scores, scores_from_rank
from persona_jobs.mask_learning.learn import MaskProblem, learn, mask_trainer
from persona_jobs.mask_learning.optimal_brain_surgeon import OptimalBrainSurgeon
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.masking import masked
from persona_jobs.recovery.data import RecoveryData
from persona_jobs.training.losses import Objective
from persona_jobs.training.passes import accumulate_gradient
from persona_jobs.training.trainer import TrainingConfig


@dataclass(frozen=True)
class Problem:
    """What channels are ranked for.

    Attributes:
        model: the dense model.
        data: the persona's examples with the dense model's hidden states, and general ones.
        kept_channels: channels to keep in every layer.
        training: settings of mask learning.
        ridge: settings of optimal brain surgeon.
        scratch: folder for temporary files.
    """

    model: Any
    data: RecoveryData
    kept_channels: int
    training: TrainingConfig
    ridge: float
    scratch: Path


@dataclass(frozen=True)
class Ranking:
    """Scores `[n_layers, d_ff]`, and factors of the channels' activations or None."""

    scores: Tensor
    scales: Tensor | None = None


Method = Callable[[Problem], Ranking]


def random_choice(problem: Problem) -> Ranking:
    """Rank the channels at random."""
    layers = ffn_layers(problem.model)
    shape = (len(layers), layers[0].intermediate_size)
    return Ranking(random_scores(shape, problem.training.seed))


def weight_norm(problem: Problem) -> Ranking:
    """Rank by the L2 norm of all weights of a channel: gate row, up row and down column."""
    squares = []
    for layer in ffn_layers(problem.model):
        square = layer.down.weight.float().square().sum(dim=0)
        channels = torch.arange(layer.intermediate_size, device=square.device)
        for projection in layer.expanding:
            rows = projection.weight.float().square().sum(dim=1)
            square = square + rows[layer.rows_of(projection, channels)].view(-1, len(square)).sum(0)
        squares.append(square.sqrt().cpu())
    return Ranking(torch.stack(squares))


def activation_norm(problem: Problem) -> Ranking:
    """Rank by the root mean square of the activation on the persona's data."""
    return Ranking(activation_rms(problem.model, problem.data.persona.train))


def wanda(problem: Problem) -> Ranking:
    """Rank by |weight| times activation norm, summed over `down_proj`'s outputs (2306.11695)."""
    sums = [layer.down.weight.float().abs().sum(dim=0) for layer in ffn_layers(problem.model)]
    return Ranking(activation_norm(problem).scores * torch.stack(sums).cpu())


def taylor(problem: Problem) -> Ranking:
    """Rank by |activation times gradient| of the loss, a mean over answers (2305.11627).

    The gradient of a mask entry at 1 is the sum of activation times gradient over an answer's
    tokens: the first-order estimate of what removing the channel changes.
    """
    model, train = problem.model, problem.data.persona.train
    layers = ffn_layers(model)
    shape = (len(layers), layers[0].intermediate_size)
    total = torch.zeros(shape)
    for row in range(len(train)):
        mask = torch.ones(shape, requires_grad=True)
        accumulate_gradient(
            model,
            train,
            [row],
            "CrossEntropy",
            micro_batch_size=1,
            scale=1 / train.answer_tokens([row]),
            masking=partial(masked, model, mask),
        )
        if mask.grad is None:
            raise RuntimeError("no gradient reached the mask")
        total += mask.grad.abs().cpu()
    return Ranking(total)


def straight_through(objective: Objective, *, scales: bool = False) -> Method:
    """Return mask learning with an objective, from the ranking of the activation norm."""

    def rank(problem: Problem) -> Ranking:
        scores = scores_from_rank(activation_norm(problem).scores)
        trainer = mask_trainer(scores, problem.training, with_scales=scales)
        learned = learn(
            MaskProblem(problem.model, problem.data.persona, problem.kept_channels, objective),
            trainer,
        )
        return Ranking(learned.scores, learned.scales)

    return rank


def optimal_brain_surgeon(problem: Problem) -> Ranking:
    """Rank by the order of removal on the pruned stream."""
    surgeon = OptimalBrainSurgeon(
        problem.model, kept_channels=problem.kept_channels, ridge=problem.ridge
    )
    return Ranking(surgeon.run(problem.data.train_sets(), scratch=problem.scratch))


METHODS: Mapping[str, Method] = {
    "random": random_choice,
    "weight-norm": weight_norm,
    "activation-norm": activation_norm,
    "wanda": wanda,
    "taylor": taylor,
    "straight-through-ce": straight_through("CrossEntropy"),
    "straight-through-kl": straight_through("KL"),
    "straight-through-kl-scales": straight_through("KL", scales=True),
    "optimal-brain-surgeon": optimal_brain_surgeon,
}
