"""What recovery fits and measures on: the persona's data and general instructions, weighted.

The weights mean the same everywhere. With g the generic share, every loss is (1 - g) times the mean
over the persona's tokens plus g times the mean over the generic tokens: in the refit, in the
reconstruction, in each batch of the fine-tuning, and on held-out data.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import InputError
from ..pipeline.results import HeldOutKl
from ..training.distillation import DistillationDataset
from ..training.passes import mean_answer_loss, with_dense_hidden_states
from .streams import WeightedSet

# Fewer held-out answers than this hardly tell what helps.
FEW_HELD_OUT = 8


@dataclass(frozen=True)
class WeightedData:
    """One kind of data and its share of every loss.

    Attributes:
        kind: whose data it is.
        data: examples to learn from and held-out ones.
        weight: its share; the shares add up to 1.
    """

    kind: Literal["persona", "generic"]
    data: DistillationDataset
    weight: float


@dataclass(frozen=True)
class RecoveryData:
    """Examples of the persona, and general ones without it.

    Attributes:
        persona: the persona's examples.
        generic: general examples; either split may be empty.
        generic_percent: weight of the general examples in every loss, in percent.
    """

    persona: DistillationDataset
    generic: DistillationDataset
    generic_percent: int

    def parts(self) -> list[WeightedData]:
        """Return the data with its weights: the persona alone where a generic split is empty."""
        share = self.generic_percent / 100
        if not share or not len(self.generic.train) or not len(self.generic.validation):
            return [WeightedData("persona", self.persona, 1.0)]
        return [
            WeightedData("persona", self.persona, 1 - share),
            WeightedData("generic", self.generic, share),
        ]

    def train_sets(self) -> list[WeightedSet]:
        """Return the examples to learn from."""
        return [WeightedSet(part.data.train, part.weight) for part in self.parts()]

    def held_out_sets(self) -> list[WeightedSet]:
        """Return the held-out examples."""
        return [WeightedSet(part.data.validation, part.weight) for part in self.parts()]

    def rows(self, *, train: bool) -> int:
        """Return the number of held-out examples, and of those to learn from if `train`."""
        return sum(
            len(part.data.validation) + (len(part.data.train) if train else 0)
            for part in self.parts()
        )

    def with_dense_hidden_states(
        self, dense: Any, *, train: bool, on_rows: Callable[[int], None]
    ) -> "RecoveryData":
        """Return the data with the dense model's final hidden states.

        Args:
            dense: the dense model.
            train: whether the examples to learn from get them too, beside the held-out ones.
            on_rows: called with the number of examples done, after each batch.
        """

        def with_states(data: DistillationDataset) -> DistillationDataset:
            validation = with_dense_hidden_states(dense, data.validation, on_rows=on_rows)
            if not train:
                return replace(data, validation=validation)
            return DistillationDataset(
                with_dense_hidden_states(dense, data.train, on_rows=on_rows), validation
            )

        if len(self.parts()) == 1:
            return replace(self, persona=with_states(self.persona))
        return replace(self, persona=with_states(self.persona), generic=with_states(self.generic))


def check_data(data: RecoveryData) -> None:
    """Check that there is something to learn from and something to measure on.

    Raises:
        InputError: one of the persona's splits is empty.
    """
    for split, examples in (
        ("training", data.persona.train),
        ("held-out", data.persona.validation),
    ):
        if not len(examples):
            raise InputError(
                f"The recovery has no {split} answers of the persona",
                hint="Raise spec.instructions.maxSamples or spec.dataset.maxTokens",
                subject="spec.dataset",
            )


def held_out_kl(model: Any, data: RecoveryData) -> HeldOutKl:
    """Return the KL divergence from the dense model on held-out data, in nats per answer token.

    Args:
        model: the model to measure.
        data: examples with the dense model's hidden states.
    """
    measured: dict[str, list[float]] = {}
    weighted = 0.0
    for part in data.parts():
        loss = mean_answer_loss(model, part.data.validation, "KL")
        measured.setdefault(part.kind, []).append(loss)
        weighted += part.weight * loss
    means = {kind: sum(losses) / len(losses) for kind, losses in measured.items()}
    return HeldOutKl(weighted=weighted, **means)


def data_warnings(data: RecoveryData, width: int) -> list[str]:
    """Return a sentence for everything that there is too little of.

    Args:
        data: the examples.
        width: kept channels per layer, which is the number of weights per output of `down_proj`.
    """
    warnings = []
    parts = data.parts()
    if data.generic_percent and len(parts) == 1:
        warnings.append(
            "There are too few general instructions, so the recovery sees the persona's answers "
            "alone and may cost general ability."
        )
    tokens = sum(part.data.train.tokens + len(part.data.train.prefix) for part in parts)
    if tokens < width:
        warnings.append(
            f"The recovery has {tokens:,} training tokens for {width:,} channels per layer: with "
            "so little data it can restore only a part of what pruning lost."
        )
    for part in parts:
        count = len(part.data.validation)
        if count < FEW_HELD_OUT:
            whose = "answers of the persona" if part.kind == "persona" else "general answers"
            warnings.append(
                f"What helps is judged by {count} held-out {whose} only, so chance plays a part; "
                f"{FEW_HELD_OUT} or more are better."
            )
    return warnings
