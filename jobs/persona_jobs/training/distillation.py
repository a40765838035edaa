"""The data that mask learning and recovery train on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .passes import with_dense_hidden_states
from .tokens import TokenizedSet

# What is learned in closed form or measured along the way gains nothing from more examples, but its
# time, memory and scratch space grow with them. Gradient steps may read more.
MAX_TRAIN_EXAMPLES = 2048
MAX_VALIDATION_EXAMPLES = 512


def train_limit(steps: int, batch_size: int) -> int:
    """Return how many examples are of use to a training of so many steps."""
    return max(MAX_TRAIN_EXAMPLES, steps * batch_size)


@dataclass(frozen=True)
class DistillationDataset:
    """Examples to learn from and held-out ones.

    The sets carry the dense model's final hidden states where the loss compares with them.

    Attributes:
        train: examples to learn from.
        validation: examples for the held-out loss.
    """

    train: TokenizedSet
    validation: TokenizedSet

    def __len__(self) -> int:
        return len(self.train) + len(self.validation)

    def with_dense_hidden_states(
        self, dense: Any, *, on_rows: Callable[[int], None] = lambda _rows: None
    ) -> "DistillationDataset":
        """Return the same examples with the dense model's final hidden states.

        Args:
            dense: the dense model.
            on_rows: called with the number of examples done, after each batch.
        """
        return DistillationDataset(
            with_dense_hidden_states(dense, self.train, on_rows=on_rows),
            with_dense_hidden_states(dense, self.validation, on_rows=on_rows),
        )
