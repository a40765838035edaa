"""The stage's metrics from the raw measurements."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ..pipeline.results import Variant, VariantMetrics
from .bootstrap import Interval
from .losses import HeldOutLoss
from .persona_score import ScoredAnswer
from .speed import Speed

Value = TypeVar("Value")


@dataclass(frozen=True)
class Measurements:
    """Measurements by variant; a variant without one was not measured.

    Attributes:
        sizes: (parameters, bytes of the stored weights).
        scores: persona score, 0 to 100.
        retentions: persona score in percent of the dense model's.
        figures: means of the figures that the score is made of.
        persona: losses on the persona's held-out answers.
        generic: losses on held-out general instructions.
        speeds: prefill and decode speed.
    """

    sizes: Mapping[Variant, tuple[int, int]]
    scores: Mapping[Variant, Interval] = field(default_factory=dict)
    retentions: Mapping[Variant, Interval | None] = field(default_factory=dict)
    figures: Mapping[Variant, ScoredAnswer] = field(default_factory=dict)
    persona: Mapping[Variant, HeldOutLoss] = field(default_factory=dict)
    generic: Mapping[Variant, HeldOutLoss] = field(default_factory=dict)
    speeds: Mapping[Variant, Speed] = field(default_factory=dict)

    def of(self, name: Variant) -> VariantMetrics:
        """Return the metrics of one variant."""
        parameters, stored = self.sizes[name]
        score, retention = self.scores.get(name), self.retentions.get(name)
        figures, speed = self.figures.get(name), self.speeds.get(name)
        persona, generic = self.persona.get(name), self.generic.get(name)
        return VariantMetrics(
            parameters=parameters,
            checkpoint_bytes=stored,
            persona_score=rounded(score.mean if score else None, 2),
            persona_score_low=rounded(score.low if score else None, 2),
            persona_score_high=rounded(score.high if score else None, 2),
            persona_score_retention=rounded(retention.mean if retention else None, 1),
            persona_score_retention_low=rounded(retention.low if retention else None, 1),
            persona_score_retention_high=rounded(retention.high if retention else None, 1),
            voice=percent(figures.voice if figures else None),
            relevance=percent(figures.relevance if figures else None),
            fluency=percent(figures.fluency if figures else None),
            originality=percent(figures.originality if figures else None),
            answer_loss=rounded(figures.loss if figures else None),
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


def percent(share: float | None) -> float | None:
    """Return a share from 0 to 1 in percent, rounded for JSON."""
    return rounded(None if share is None else 100 * share, 2)


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return `value` rounded for JSON, or None when it is None or not finite."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
