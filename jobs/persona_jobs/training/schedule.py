"""Learning rate, order of examples and early stopping: functions of the seed and the step."""

import math
from dataclasses import dataclass

import torch


def cosine_learning_rate(step: int, steps: int, peak: float, *, warmup: int = 0) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, then cosine decay.

    Args:
        step: steps done before.
        steps: steps of the whole run, at the end of which the rate is 0.
        peak: the rate after the warm-up.
        warmup: steps of linear warm-up.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Return the examples of step `step`; every epoch has an order of its own.

    The result depends on nothing but the arguments, so a resumed run sees the same batches. A batch
    never holds an example twice; with fewer than `batch_size` examples it holds all of them.
    """
    size = min(batch_size, count)
    per_epoch = count // size
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator)
    return order[position * size : (position + 1) * size].tolist()


@dataclass
class EarlyStopping:
    """The best held-out loss so far, and whether it is time to stop.

    Attributes:
        patience: evaluations without improvement after which to stop.
        best_loss: lowest loss so far.
        best_step: step of the lowest loss.
        evaluations_since_best: evaluations after that step.
    """

    patience: int
    best_loss: float = math.inf
    best_step: int = 0
    evaluations_since_best: int = 0

    def update(self, loss: float, step: int) -> bool:
        """Record a held-out loss and return whether it is the lowest so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.evaluations_since_best = loss, step, 0
            return True
        self.evaluations_since_best += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether `patience` evaluations have brought no improvement."""
        return self.evaluations_since_best >= self.patience
