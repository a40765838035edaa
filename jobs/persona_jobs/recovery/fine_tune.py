"""Short fine-tuning of the sliced model's `down_proj` weights with KL to the dense model.

Only `down_proj` is trained: the same weights that the refit solves for, a third of the FFN. That
keeps the resume state small, and narrow data can't distort the other weights. A share of every
batch is generic, so that general ability holds.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.families import ffn_layers
from ..training.distillation import DistillationDataset
from ..training.passes import accumulate_gradient, mean_answer_loss
from ..training.schedule import batch_indices
from ..training.trainer import Control, NoControl, Trainer, TrainingConfig


@dataclass(frozen=True)
class FineTuneConfig:
    """Settings of the fine-tuning.

    Attributes:
        training: hyperparameters of the run.
        generic_percent: share of each batch, and weight in the held-out loss, that is generic.
    """

    training: TrainingConfig
    generic_percent: int


@dataclass(frozen=True)
class RecoveryData:
    """Examples of the persona, and general ones without it.

    Attributes:
        persona: the persona's examples.
        generic: general examples; either split may be empty.
    """

    persona: DistillationDataset
    generic: DistillationDataset


@dataclass(frozen=True)
class _Part:
    """One data set's share of every batch and of the held-out loss."""

    data: DistillationDataset
    batch_size: int
    seed: int
    weight: float


def fine_tune_trainer(sliced: Any, config: FineTuneConfig) -> Trainer:
    """Return a trainer of float32 copies of the `down_proj` weights."""
    weights = {
        str(layer.index): layer.down.weight.detach().float().clone() for layer in ffn_layers(sliced)
    }
    return Trainer(weights, config.training)


def fine_tune(
    sliced: Any,
    data: RecoveryData,
    config: FineTuneConfig,
    trainer: Trainer,
    control: Control | None = None,
) -> None:
    """Run `trainer` to its end and put the weights with the lowest held-out loss into `sliced`.

    Args:
        sliced: the sliced model, changed in place.
        data: examples with the dense model's hidden states.
        config: settings.
        trainer: from `fine_tune_trainer`, possibly resumed.
        control: progress and interruption.
    """
    parts = _parts(data, config)
    micro_batch_size = config.training.micro_batch_size
    downs = {str(layer.index): layer.down for layer in ffn_layers(sliced)}

    def load(weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, down in downs.items():
                down.weight.copy_(weights[name])

    def gradient(step: int) -> float:
        load(trainer.parameters)
        batches = [
            (
                part.data.train,
                batch_indices(len(part.data.train), part.batch_size, step, part.seed),
            )
            for part in parts
        ]
        count = sum(train.answer_tokens(rows) for train, rows in batches)
        for down in downs.values():
            down.weight.requires_grad_(True)
        try:
            total = sum(
                accumulate_gradient(
                    sliced,
                    train,
                    rows,
                    "KL",
                    micro_batch_size=micro_batch_size,
                    scale=1 / count,
                )
                for train, rows in batches
            )
            for name, down in downs.items():
                if down.weight.grad is not None:
                    trainer.parameters[name].grad = down.weight.grad.float()
        finally:
            for down in downs.values():
                down.weight.grad = None
                down.weight.requires_grad_(False)
        return total / count

    def held_out_loss() -> float:
        load(trainer.parameters)
        return sum(
            part.weight * mean_answer_loss(sliced, part.data.validation, "KL") for part in parts
        )

    trainer.run(gradient, held_out_loss, control or NoControl())
    load(trainer.best)


def _parts(data: RecoveryData, config: FineTuneConfig) -> list[_Part]:
    """Return what each batch is made of: the persona alone where a generic split is empty."""
    batch_size, seed = config.training.batch_size, config.training.seed
    usable = len(data.generic.train) and len(data.generic.validation)
    share = config.generic_percent / 100 if usable else 0.0
    generic_size = round(batch_size * share)
    parts = [_Part(data.persona, batch_size - generic_size, seed, 1 - share)]
    if generic_size:
        parts.append(_Part(data.generic, generic_size, seed + 1, share))
    return parts
