"""Short fine-tuning of the sliced model's `down_proj` weights with KL to the dense model.

Only `down_proj` is trained: the same weights that the refit solves for, a third of the FFN. That
keeps the resume state small, and narrow data can't distort the other weights. A share of every
batch is generic, so that general ability holds.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..models.families import ffn_layers
from ..training.passes import accumulate_gradient
from ..training.schedule import batch_indices
from ..training.tokens import TokenizedSet
from ..training.trainer import Control, Trainer, TrainingConfig
from .data import RecoveryData, held_out_kl
from .run import Weights, put


@dataclass(frozen=True)
class FineTuneConfig:
    """Settings of the fine-tuning.

    Attributes:
        training: hyperparameters of the run.
    """

    training: TrainingConfig


def fine_tune_trainer(
    sliced: Any, weights: Weights, config: FineTuneConfig, learning_rate: float
) -> Trainer:
    """Return a trainer of float32 copies of the `down_proj` weights.

    Args:
        sliced: the sliced model.
        weights: float32 weights, by name, that replace the model's rounded ones.
        config: settings.
        learning_rate: Adam's peak learning rate.
    """
    names = {parameter: name for name, parameter in sliced.named_parameters()}
    trained = [(names[layer.down.weight], layer.down.weight) for layer in ffn_layers(sliced)]
    return Trainer(
        {
            name: weights.get(name, weight).detach().to(weight.device, torch.float32, copy=True)
            for name, weight in trained
        },
        replace(config.training, learning_rate=learning_rate),
    )


def fine_tune(sliced: Any, data: RecoveryData, trainer: Trainer, control: Control) -> None:
    """Run `trainer` to its end and put the weights with the lowest held-out loss into `sliced`.

    Args:
        sliced: the sliced model, changed in place.
        data: examples with the dense model's hidden states.
        trainer: from `fine_tune_trainer`, possibly resumed.
        control: progress and interruption.
    """
    trained = {name: sliced.get_parameter(name) for name in trainer.parameters}

    def gradient(step: int) -> float:
        put(sliced, trainer.parameters)
        for weight in trained.values():
            weight.requires_grad_(True)
        try:
            loss = sum(
                _add_gradient(sliced, part, trainer.config)
                for part in batch(data, trainer.config, step)
            )
            for name, weight in trained.items():
                if weight.grad is not None:
                    trainer.parameters[name].grad = weight.grad.float()
        finally:
            for weight in trained.values():
                weight.grad = None
                weight.requires_grad_(False)
        return loss

    def held_out_loss() -> float:
        put(sliced, trainer.parameters)
        return held_out_kl(sliced, data).weighted

    trainer.run(gradient, held_out_loss, control)
    put(sliced, trainer.best)


@dataclass(frozen=True)
class BatchPart:
    """The rows of one kind of data in a batch.

    Attributes:
        tokens: the examples.
        rows: those in the batch.
        weight: share of their mean loss in the batch's loss.
    """

    tokens: TokenizedSet
    rows: list[int]
    weight: float


def batch(data: RecoveryData, config: TrainingConfig, step: int) -> list[BatchPart]:
    """Return the rows of step `step`, a share of each kind of data and at least one."""
    parts = data.parts()
    generic = 0
    if len(parts) > 1:
        wanted = round(config.batch_size * parts[1].weight)
        generic = min(max(1, wanted), config.batch_size - 1)
    sizes = (config.batch_size - generic, generic)
    return [
        BatchPart(
            part.data.train,
            batch_indices(len(part.data.train), size, step, config.seed + offset),
            part.weight,
        )
        for offset, (part, size) in enumerate(zip(parts, sizes, strict=False))
    ]


def _add_gradient(model: Any, part: BatchPart, config: TrainingConfig) -> float:
    """Add the gradient of a part's weighted mean loss to the weights; returns that loss."""
    scale = part.weight / part.tokens.answer_tokens(part.rows)
    return scale * accumulate_gradient(
        model,
        part.tokens,
        part.rows,
        "KL",
        micro_batch_size=config.micro_batch_size,
        scale=scale,
    )
