"""Mask learning: one real score per channel, hard top-k forward, straight-through backward.

The weights are frozen and the scores z are the only thing that is trained (Persona-Pruner). The
mask is the exact top-k of z in every layer at every step, so every layer always keeps the same
number of channels.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.masking import masked
from ..models.topk import hard_top_k
from ..training.distillation import DistillationDataset
from ..training.losses import Objective
from ..training.passes import accumulate_gradient, mean_answer_loss
from ..training.schedule import batch_indices
from ..training.trainer import Control, NoControl, Trainer, TrainingConfig

SCORES = "z"


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


def held_out_loss(problem: MaskProblem, scores: Tensor) -> float:
    """Return the held-out loss of the mask that `scores` give, in nats per answer token."""
    mask = hard_top_k(scores.detach(), problem.kept_channels)
    with masked(problem.model, mask):
        return mean_answer_loss(problem.model, problem.data.validation, problem.objective)


def score_gradient(
    problem: MaskProblem, scores: Tensor, rows: Sequence[int], *, micro_batch_size: int
) -> float:
    """Add the straight-through gradient of the rows' mean loss to `scores.grad`.

    Returns:
        The mean loss per answer token.
    """
    mask = hard_top_k(scores.detach(), problem.kept_channels).requires_grad_(True)
    train = problem.data.train
    count = train.answer_tokens(rows)

    def masking() -> AbstractContextManager[Any]:
        return masked(problem.model, mask)

    total = accumulate_gradient(
        problem.model,
        train,
        rows,
        problem.objective,
        micro_batch_size=micro_batch_size,
        scale=1 / count,
        masking=masking,
    )
    if mask.grad is None:
        raise RuntimeError("no gradient reached the mask")
    # Straight through: the gradient of a score is the gradient of its mask entry.
    scores.grad = mask.grad if scores.grad is None else scores.grad + mask.grad
    return total / count


def learn(problem: MaskProblem, trainer: Trainer, control: Control | None = None) -> Tensor:
    """Run `trainer`, made by `mask_trainer` and possibly resumed, to its end.

    Returns:
        The scores `[n_layers, d_ff]` with the lowest held-out loss.
    """
    scores, config = trainer.parameters[SCORES], trainer.config

    def gradient(step: int) -> float:
        rows = batch_indices(len(problem.data.train), config.batch_size, step, config.seed)
        return score_gradient(problem, scores, rows, micro_batch_size=config.micro_batch_size)

    trainer.run(gradient, lambda: held_out_loss(problem, scores), control or NoControl())
    return trainer.best[SCORES]


def mask_trainer(scores: Tensor, config: TrainingConfig) -> Trainer:
    """Return a trainer that learns `scores` `[n_layers, d_ff]` in place."""
    return Trainer({SCORES: scores.requires_grad_(True)}, config)
