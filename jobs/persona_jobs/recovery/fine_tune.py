"""Short fine-tuning of the cut model's `down_proj` weights with KL to the dense model.

Only `down_proj` learns: the same weights that the refit solves for, a third of the FFN, which
keeps the checkpoint small and narrow data from bending the rest. A share of every batch is generic,
so that general ability holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.families import ffn_layers
from ..training.passes import accumulate_gradient, mean_answer_loss
from ..training.schedule import batch_indices
from ..training.tokens import TokenizedSet
from ..training.trainer import Control, Loop, LoopSettings


@dataclass(frozen=True)
class DistillationSet:
    """Examples with the dense model's final hidden states, made by `dense_references`.

    Attributes:
        train: examples to learn from.
        train_references: per row `[answer tokens, hidden]`.
        validation: held-out examples.
        validation_references: the same for them.
    """

    train: TokenizedSet
    train_references: Sequence[Tensor]
    validation: TokenizedSet
    validation_references: Sequence[Tensor]


def fine_tune_loop(cut: Any, settings: LoopSettings) -> Loop:
    """A run over float32 copies of the `down_proj` weights."""
    return Loop(
        {str(layer.index): layer.down.weight.detach().float().clone() for layer in ffn_layers(cut)},
        settings,
    )


def fine_tune(
    cut: Any,
    persona: DistillationSet,
    generic: DistillationSet | None,
    loop: Loop,
    *,
    generic_percent: int,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    control: Control | None = None,
) -> None:
    """Run `loop` to its end and put the weights with the lowest held-out loss into `cut`.

    Args:
        cut: the cut model, changed in place.
        persona: the persona's data.
        generic: general data without the persona, or None.
        loop: from `fine_tune_loop`, possibly resumed.
        generic_percent: share of each batch, and weight of the held-out loss, that is generic.
        batch_size: conversations a step.
        micro_batch_size: conversations a forward pass.
        seed: decides the batches.
        control: progress and interruption.
    """
    share = generic_percent / 100 if generic is not None else 0.0
    generic_rows = round(batch_size * share)
    parts = [(persona, batch_size - generic_rows, seed, 1 - share)]
    if generic is not None and generic_rows:
        parts.append((generic, generic_rows, seed + 1, share))
    downs = {str(layer.index): layer.down for layer in ffn_layers(cut)}

    def load(weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, down in downs.items():
                down.weight.copy_(weights[name])

    def gradient(step: int) -> float:
        load(loop.parameters)
        rows = [batch_indices(len(d.train), size, step, s) for d, size, s, _ in parts]
        count = sum(
            data.train.answer_tokens(chosen)
            for (data, _, _, _), chosen in zip(parts, rows, strict=True)
        )
        for down in downs.values():
            down.weight.requires_grad_(True)
        try:
            total = sum(
                accumulate_gradient(
                    cut,
                    data.train,
                    chosen,
                    data.train_references,
                    "KL",
                    micro_batch_size=micro_batch_size,
                    scale=1 / count,
                )
                for (data, _, _, _), chosen in zip(parts, rows, strict=True)
            )
            for name, down in downs.items():
                if down.weight.grad is not None:
                    loop.parameters[name].grad = down.weight.grad.float()
        finally:
            for down in downs.values():
                down.weight.grad = None
                down.weight.requires_grad_(False)
        return total / count

    def held_out() -> float:
        load(loop.parameters)
        return sum(
            weight * mean_answer_loss(cut, data.validation, data.validation_references, "KL")
            for data, _, _, weight in parts
        )

    loop.run(gradient, held_out, control)
    load(loop.best)
