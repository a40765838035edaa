"""Mask learning: one real score per channel, hard top-k forward, straight-through backward.

The weights are frozen; only the scores z are trained, and, if wanted, one factor per channel
(Persona-Pruner; learned factors beside the choice of channels: GRASPrune, arXiv 2604.19398). The
mask is the exact top-k of z in every layer at every step, so every layer always keeps the same
number of channels.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.masking import masked
from ..models.topk import hard_top_k
from ..training.distillation import DistillationDataset
from ..training.losses import Objective
from ..training.passes import accumulate_gradient, mean_answer_loss
from ..training.schedule import batch_indices
from ..training.trainer import Control, NoControl, Trainer, TrainingConfig

SCORES = "z"
SCALES = "s"
# A factor is 1 + SCALE_STEP * s, so it moves this much less per step than a score does.
SCALE_STEP = 0.25


@dataclass(frozen=True)
class MaskProblem:
    """What a mask is learned for.

    Attributes:
        model: the dense model, frozen.
        data: the persona's examples; KL and Sum need their dense hidden states.
        kept_channels: channels kept in every layer.
        objective: the loss.
    """

    model: Any
    data: DistillationDataset
    kept_channels: int
    objective: Objective


@dataclass(frozen=True)
class LearnedMask:
    """What was learned, at the lowest held-out loss.

    Attributes:
        scores: `[n_layers, d_ff]`; the `kept_channels` largest of a layer are kept.
        scales: `[n_layers, d_ff]` factors of the channels' activations, or None without them.
    """

    scores: Tensor
    scales: Tensor | None


def held_out_loss(problem: MaskProblem, parameters: Mapping[str, Tensor]) -> float:
    """Return the held-out loss of the mask and the factors, in nats per answer token."""
    mask, scales = _mask_and_scales(problem, parameters)
    with masked(problem.model, mask * scales):
        return mean_answer_loss(problem.model, problem.data.validation, problem.objective)


def add_gradient(
    problem: MaskProblem,
    parameters: Mapping[str, Tensor],
    rows: Sequence[int],
    *,
    micro_batch_size: int,
) -> float:
    """Add the gradient of the rows' mean loss to the parameters, straight through the top-k.

    Returns:
        The mean loss per answer token.
    """
    mask, scales = _mask_and_scales(problem, parameters)
    factors = (mask * scales).requires_grad_(True)
    train = problem.data.train
    count = train.answer_tokens(rows)

    def masking() -> AbstractContextManager[Any]:
        return masked(problem.model, factors)

    total = accumulate_gradient(
        problem.model,
        train,
        rows,
        problem.objective,
        micro_batch_size=micro_batch_size,
        scale=1 / count,
        masking=masking,
    )
    if factors.grad is None:
        raise RuntimeError("no gradient reached the mask")
    # Straight through: the gradient of a score is the gradient of its mask entry.
    _add(parameters[SCORES], factors.grad * scales)
    if SCALES in parameters:
        _add(parameters[SCALES], factors.grad * mask * SCALE_STEP)
    return total / count


def learn(problem: MaskProblem, trainer: Trainer, control: Control | None = None) -> LearnedMask:
    """Run `trainer`, made by `mask_trainer` and possibly resumed, to its end."""
    parameters, config = trainer.parameters, trainer.config

    def gradient(step: int) -> float:
        rows = batch_indices(len(problem.data.train), config.batch_size, step, config.seed)
        return add_gradient(problem, parameters, rows, micro_batch_size=config.micro_batch_size)

    trainer.run(gradient, lambda: held_out_loss(problem, parameters), control or NoControl())
    scales = _scales(trainer.best) if SCALES in trainer.best else None
    return LearnedMask(trainer.best[SCORES], scales)


def mask_trainer(scores: Tensor, config: TrainingConfig, *, with_scales: bool = False) -> Trainer:
    """Return a trainer that learns `scores` `[n_layers, d_ff]` in place.

    Args:
        scores: where the scores start.
        config: settings.
        with_scales: whether a factor per channel is learned too; it starts from 1.
    """
    parameters = {SCORES: scores.requires_grad_(True)}
    if with_scales:
        parameters[SCALES] = torch.zeros_like(scores).requires_grad_(True)
    return Trainer(parameters, config)


def _mask_and_scales(
    problem: MaskProblem, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    mask = hard_top_k(parameters[SCORES].detach(), problem.kept_channels)
    return mask, _scales(parameters)


def _scales(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the factors `[n_layers, d_ff]`, all 1 where none are learned."""
    if SCALES not in parameters:
        return torch.ones_like(parameters[SCORES])
    return 1 + SCALE_STEP * parameters[SCALES].detach()


def _add(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
