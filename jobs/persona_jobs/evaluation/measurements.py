"""The stage's metrics from the raw measurements."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ..pipeline.results import Variant, VariantMetrics
from .bootstrap import Interval
from .losses import HeldOutLoss
from .speed import Speed

Value = TypeVar("Value")


@dataclass(frozen=True)
class Measurements:
    """Measurements by variant; a variant without one was not measured.

    Attributes:
        sizes: (parameters, bytes of the stored weights).
        scores: persona score, 0 to 100.
        persona: losses on the persona's held-out answers.
        generic: losses on held-out general instructions.
        speeds: prefill and decode speed.
    """

    sizes: Mapping[Variant, tuple[int, int]]
    scores: Mapping[Variant, Interval] = field(default_factory=dict)
    persona: Mapping[Variant, HeldOutLoss] = field(default_factory=dict)
    generic: Mapping[Variant, HeldOutLoss] = field(default_factory=dict)
    speeds: Mapping[Variant, Speed] = field(default_factory=dict)

    def of(self, name: Variant) -> VariantMetrics:
        """Return the metrics of one variant."""
        parameters, stored = self.sizes[name]
        score, speed = self.scores.get(name), self.speeds.get(name)
        persona, generic = self.persona.get(name), self.generic.get(name)
        return VariantMetrics(
            parameters=parameters,
            checkpoint_bytes=stored,
            persona_score=rounded(score.mean if score else None, 2),
            persona_score_low=rounded(score.low if score else None, 2),
            persona_score_high=rounded(score.high if score else None, 2),
            persona_loss=rounded(persona.cross_entropy if persona else None),
            persona_kl=rounded(persona.kl if persona else None),
            generic_loss=rounded(generic.cross_entropy if generic else None),
            generic_kl=rounded(generic.kl if generic else None),
            prefill_tokens_per_second=rounded(speed.prefill if speed else None, 1),
            decode_tokens_per_second=rounded(speed.decode if speed else None, 2),
        )


def with_masked(measured: Mapping[Variant, Value]) -> dict[Variant, Value]:
    """Add the masked model, which computes the same function as the sliced one."""
    if "sliced" not in measured:
        return dict(measured)
    return {**measured, "masked": measured["sliced"]}


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return `value` rounded for JSON, or None when it is None or not finite."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
