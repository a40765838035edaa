"""Raw measurements put together into the stage's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..pipeline.results import Variant, VariantMetrics
from .bootstrap import Interval
from .losses import HeldOutLoss
from .report.parts import rounded
from .speed import Speed


@dataclass(frozen=True)
class Measurements:
    """What was measured, by variant; what is missing was not measured.

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
        """Metrics of one variant."""
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
