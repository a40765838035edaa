"""Stage results as status fields; numbers become strings."""

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue, ValidationError

from persona_jobs.api import PersonaModelSpec
from persona_jobs.api.status import JUDGE_METRIC, ArtifactStatus, MetricStatus, RevisionStatus
from persona_jobs.pipeline.graph import short_key
from persona_jobs.pipeline.judge_results import JudgeMetrics
from persona_jobs.pipeline.pins import digest_of
from persona_jobs.pipeline.results import EvaluationMetrics

EXPORT = "export"
MAX_RESULTS = 24
MAX_VALUE_LENGTH = 120


def number(value: float) -> str:
    """Return six significant digits, without an exponent where that is short enough."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}"


def summarize(results: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return the scalar results as strings."""
    summary: dict[str, str] = {}
    for name, value in results.items():
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, int | float):
            text = number(value)
        elif isinstance(value, str):
            text = value[:MAX_VALUE_LENGTH]
        else:
            continue
        summary[name] = text
        if len(summary) == MAX_RESULTS:
            break
    return summary


def found_sources(results: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return commit or digest by name of the sources that a lookup has found."""
    reported = results.get("sources")
    items = reported.items() if isinstance(reported, Mapping) else ()
    return {name: value for name, value in items if isinstance(value, str) and digest_of(value)}


def parse_evaluation(results: Mapping[str, JsonValue]) -> EvaluationMetrics | None:
    """Return the evaluation's metrics, None when they or the served model's are missing."""
    try:
        parsed = EvaluationMetrics.model_validate(results)
    except ValidationError:
        return None
    return parsed if parsed.served in parsed.variants else None


def evaluation_summary(evaluation: EvaluationMetrics) -> dict[str, str]:
    """Return the figures for `status.stages`: the served variant beside the dense one."""
    served = evaluation.variants[evaluation.served]
    dense = evaluation.variants.get("dense")
    figures: dict[str, float | None] = {
        "personaScore": served.persona_score,
        "personaScoreLow": served.persona_score_low,
        "personaScoreHigh": served.persona_score_high,
        "densePersonaScore": dense.persona_score if dense else None,
        "personaScoreRetention": served.persona_score_retention,
        "voice": served.voice,
        "relevance": served.relevance,
        "fluency": served.fluency,
        "chancePersonaScore": evaluation.chance_persona_score,
        "genericLoss": served.generic_loss,
        "denseGenericLoss": dense.generic_loss if dense else None,
        "queries": evaluation.queries,
    }
    return {name: number(value) for name, value in figures.items() if value is not None}


def revision_from_evaluation(
    evaluation: EvaluationMetrics,
    *,
    spec: PersonaModelSpec,
    slice_key: str,
    evaluate_key: str,
    finished_at: str,
    store: str,
) -> RevisionStatus:
    """Return a finished model with its measurements; its gate isn't checked yet."""
    return RevisionStatus(
        id=short_key(slice_key),
        finished_at=finished_at,
        sparsity_percent=spec.pruning.sparsity_percent,
        gate="NotSet",
        store=store,
        metrics=_metrics(evaluation),
        artifacts=[
            ArtifactStatus(name="checkpoint", stage="slice", key=slice_key),
            ArtifactStatus(name="evaluation", stage="evaluate", key=evaluate_key),
        ],
    )


def with_export(artifacts: list[ArtifactStatus], key: str) -> list[ArtifactStatus]:
    """Return a revision's artifacts with the newest exports instead of former ones."""
    others = [item for item in artifacts if item.name != EXPORT]
    return [*others, ArtifactStatus(name=EXPORT, stage=EXPORT, key=key)]


def _metrics(evaluation: EvaluationMetrics) -> list[MetricStatus]:
    """Return the served variant's measurements beside the dense model's."""
    served = evaluation.variants[evaluation.served].model_dump(by_alias=True, exclude_none=True)
    variant = evaluation.variants.get("dense")
    dense = variant.model_dump(by_alias=True, exclude_none=True) if variant else {}
    metrics = []
    for name, value in served.items():
        if name.endswith(("Low", "High")):
            continue
        ends = {end: served.get(f"{name}{end.capitalize()}") for end in ("low", "high")}
        figures = {"value": value, "dense": dense.get(name), **ends}
        texts = {key: number(item) for key, item in figures.items() if item is not None}
        metrics.append(MetricStatus(name=name, **texts))
    return [*metrics, *(_judge_metric(judge, evaluation.served) for judge in evaluation.judges)]


def _judge_metric(judge: JudgeMetrics, served: Literal["sliced", "recovered"]) -> MetricStatus:
    """Return a judge's score; an answer without a score counts as 0."""
    score, dense = judge.variants.get(served), judge.variants.get("dense")
    figures: dict[str, float | None] = {
        "value": score.score_with_zeros if score else None,
        "dense": dense.score_with_zeros if dense else None,
        "difference": score.difference if score else None,
        "difference_low": score.difference_low if score else None,
        "difference_high": score.difference_high if score else None,
    }
    if score is not None and score.score == score.score_with_zeros:
        figures |= {"low": score.low, "high": score.high}
    return MetricStatus(
        name=JUDGE_METRIC + judge.name,
        **{key: number(item) for key, item in figures.items() if item is not None},
        count=score.scored if score else 0,
        trusted=judge.trusted,
        message=judge.reason or None,
    )
