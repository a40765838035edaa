"""Mask learning: one real score a channel, hard top-k forward, straight-through backward.

The weights are frozen and the scores z are the only thing that learns (Persona-Pruner). The mask
is the exact top-k of z in every layer at every step, so the width never drifts from its target.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.masking import masked
from ..models.topk import hard_top_k
from ..training.losses import Objective
from ..training.passes import accumulate_gradient, mean_answer_loss
from ..training.schedule import batch_indices
from ..training.tokens import TokenizedSet
from ..training.trainer import Control, Loop, LoopSettings

SCORES = "z"


@dataclass(frozen=True)
class MaskProblem:
    """What a mask is learned for.

    Attributes:
        model: the dense model, frozen.
        train: the persona's training examples.
        validation: examples for the held-out loss.
        train_references: the dense model's hidden states on `train`; None for cross-entropy.
        validation_references: the same on `validation`.
        width: channels kept in every layer.
        objective: the loss.
    """

    model: Any
    train: TokenizedSet
    validation: TokenizedSet
    train_references: Sequence[Tensor] | None
    validation_references: Sequence[Tensor] | None
    width: int
    objective: Objective


def held_out_loss(problem: MaskProblem, scores: Tensor) -> float:
    """Held-out loss of the mask that `scores` give, in nats an answer token."""
    mask = hard_top_k(scores.detach(), problem.width)
    with masked(problem.model, mask):
        return mean_answer_loss(
            problem.model, problem.validation, problem.validation_references, problem.objective
        )


def score_gradient(
    problem: MaskProblem, scores: Tensor, rows: Sequence[int], *, micro_batch_size: int
) -> float:
    """Add the straight-through gradient of the rows' mean loss to `scores.grad`.

    Returns:
        the mean loss an answer token.
    """
    mask = hard_top_k(scores.detach(), problem.width).requires_grad_(True)
    count = problem.train.answer_tokens(rows)

    def masking() -> AbstractContextManager[Any]:
        return masked(problem.model, mask)

    total = accumulate_gradient(
        problem.model,
        problem.train,
        rows,
        problem.train_references,
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


def learn(
    problem: MaskProblem,
    loop: Loop,
    *,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    control: Control | None = None,
) -> Tensor:
    """Run `loop`, made by `mask_loop` and possibly resumed, to its end.

    Returns:
        the scores `[n_layers, d_ff]` with the lowest held-out loss.
    """
    scores = loop.parameters[SCORES]

    def gradient(step: int) -> float:
        rows = batch_indices(len(problem.train), batch_size, step, seed)
        return score_gradient(problem, scores, rows, micro_batch_size=micro_batch_size)

    loop.run(gradient, lambda: held_out_loss(problem, scores), control)
    return loop.best[SCORES]


def mask_loop(scores: Tensor, settings: LoopSettings) -> Loop:
    """A run that learns `scores` `[n_layers, d_ff]` in place."""
    return Loop({SCORES: scores.requires_grad_(True)}, settings)
