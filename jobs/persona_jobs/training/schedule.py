"""Step size, order of examples and early stop: pure functions of the seed and the step."""

import math
from dataclasses import dataclass

import torch


def cosine(step: int, steps: int, peak: float, *, warmup: int = 0, floor: float = 0.0) -> float:
    """Step size of step `step` (from 0) of `steps`: linear warm-up, then cosine decay."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Examples of step `step`: epoch after epoch, each in an order of its own.

    Depends on nothing but its arguments, so a resumed run sees the same batches. A batch never
    holds an example twice; with fewer than `batch_size` examples it holds all of them.
    """
    size = min(batch_size, count)
    per_epoch = count // size
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator)
    return order[position * size : (position + 1) * size].tolist()


@dataclass
class EarlyStop:
    """Remembers the best held-out loss and says when to stop.

    Attributes:
        patience: evaluations without improvement after which to stop.
        best: lowest loss so far.
        best_step: step of the lowest loss.
        waited: evaluations since then.
    """

    patience: int
    best: float = math.inf
    best_step: int = 0
    waited: int = 0

    def update(self, loss: float, step: int) -> bool:
        """Record a held-out loss; True when it is the best so far."""
        if loss < self.best:
            self.best, self.best_step, self.waited = loss, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience
