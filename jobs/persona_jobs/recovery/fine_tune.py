"""Short fine-tuning of the sliced model with KL to the dense model.

A share of every batch is generic, so that general ability holds. The learning rate is the one of a
small grid that lowers the divergence on held-out data most within a few steps: the same rate helps
one model and harms another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..training.passes import accumulate_gradient
from ..training.schedule import batch_indices
from ..training.tokens import TokenizedSet
from ..training.trainer import Control, NoControl, Trainer, TrainingConfig
from .data import RecoveryData, held_out_kl
from .run import put
from .trained_weights import TrainedWeights, WeightChoice

# Steps that each learning rate is tried for.
TRIAL_STEPS = 6
LEARNING_RATES: dict[WeightChoice, tuple[float, ...]] = {
    "Down": (3e-5, 1e-4, 3e-4),
    "FFN": (1e-5, 3e-5, 1e-4),
    "All": (1e-5, 3e-5, 1e-4),
    "LoRA": (1e-4, 5e-4, 2e-3),
}


@dataclass(frozen=True)
class FineTuneConfig:
    """Settings of the fine-tuning.

    Attributes:
        training: hyperparameters of the run, except the learning rate.
        learning_rates: peak learning rates; of several, the best one of a short trial is taken.
        weights: which weights are trained.
        lora_rank: rank of LoRA adapters.
    """

    training: TrainingConfig
    learning_rates: tuple[float, ...]
    weights: WeightChoice
    lora_rank: int


def fine_tune(
    sliced: Any, data: RecoveryData, trained: TrainedWeights, trainer: Trainer, control: Control
) -> None:
    """Run `trainer` to its end; the weights with the lowest held-out loss are its `best`.

    Args:
        sliced: the sliced model, changed in place.
        data: examples with the dense model's hidden states.
        trained: the weights of the model that `trainer` trains.
        trainer: a trainer of float32 copies of them, possibly resumed.
        control: progress and interruption.
    """
    parameters = trained.parameters

    def gradient(step: int) -> float:
        put(sliced, trainer.parameters)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            parts = batch(data, trainer.config, step)
            loss = sum(_add_gradient(sliced, part, trainer.config) for part in parts)
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    trainer.parameters[name].grad = parameter.grad.float()
        finally:
            for parameter in parameters.values():
                parameter.grad = None
                parameter.requires_grad_(False)
        return loss

    def held_out_loss() -> float:
        put(sliced, trainer.parameters)
        return held_out_kl(sliced, data).weighted

    trainer.run(gradient, held_out_loss, control)


def best_learning_rate(
    sliced: Any,
    data: RecoveryData,
    trained: TrainedWeights,
    config: FineTuneConfig,
    on_rate: Callable[[], None],
) -> float:
    """Return the learning rate that lowers the held-out loss most within a few steps.

    Args:
        sliced: the sliced model; it is the same afterwards.
        data: examples with the dense model's hidden states.
        trained: the weights that are trained.
        config: settings.
        on_rate: called after each rate.

    Raises:
        InputError: the loss is not finite at any rate.
    """
    steps = min(TRIAL_STEPS, config.training.steps)
    trial = replace(config.training, steps=steps, warmup=0, evaluate_every=steps, patience=1)
    losses: dict[float, float] = {}
    failure = None
    initial = trained.initial()
    for rate in config.learning_rates:
        start = {name: weight.clone() for name, weight in initial.items()}
        trainer = Trainer(start, replace(trial, learning_rate=rate))
        try:
            fine_tune(sliced, data, trained, trainer, NoControl())
            losses[rate] = trainer.curve[-1].validation_loss or math.inf
        except InputError as error:
            failure = error
        put(sliced, initial)
        on_rate()
    if not losses and failure is not None:
        raise failure
    return min(losses, key=lambda rate: losses[rate])


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
