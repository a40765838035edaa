"""A stage that writes one small file; `evaluate` reports the same figures for every persona."""

import json

from persona_jobs.pipeline.context import StageContext, StageOutcome
from persona_jobs.pipeline.results import EvaluationMetrics, VariantMetrics

DENSE = VariantMetrics(parameters=100, checkpoint_bytes=1000, persona_score=90.0, generic_loss=2.0)
RECOVERED = VariantMetrics(
    parameters=80,
    checkpoint_bytes=800,
    persona_score=85.0,
    persona_score_low=80.0,
    persona_score_high=90.0,
    generic_loss=2.1,
)


def run(context: StageContext) -> StageOutcome:
    """Write the file, and return the results that the operator reads."""
    sparsity = context.spec.pruning.sparsity_percent
    content = {"stage": context.planned.name, "sparsityPercent": sparsity}
    (context.output / "config.json").write_text(json.dumps(content), encoding="utf-8")
    if context.planned.name != "evaluate":
        return StageOutcome({})
    metrics = EvaluationMetrics(
        served="recovered",
        chance_persona_score=10.0,
        queries=8,
        variants={"dense": DENSE, "recovered": RECOVERED},
    )
    return StageOutcome(metrics.model_dump(mode="json", by_alias=True, exclude_none=True))
