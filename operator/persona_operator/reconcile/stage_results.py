"""Stage results as status fields; numbers become strings."""

from collections.abc import Mapping

from pydantic import JsonValue, ValidationError

from persona_jobs.api import PersonaModelSpec
from persona_jobs.api.status import RevisionStatus
from persona_jobs.pipeline.graph import short_key
from persona_jobs.pipeline.results import EvaluationMetrics, VariantMetrics

MAX_RESULTS = 24
MAX_VALUE_LENGTH = 120


def number(value: float) -> str:
    """Return six significant digits, without an exponent where that is short enough."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}"


def _optional(value: float | None) -> str | None:
    return None if value is None else number(value)


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
    served: VariantMetrics = evaluation.variants[evaluation.served]
    dense = evaluation.variants.get("dense")
    return RevisionStatus(
        id=short_key(slice_key),
        slice_key=slice_key,
        evaluate_key=evaluate_key,
        finished_at=finished_at,
        sparsity_percent=spec.pruning.sparsity_percent,
        gate="NotSet",
        store=store,
        persona_score=_optional(served.persona_score),
        dense_persona_score=_optional(dense.persona_score) if dense else None,
        generic_loss=_optional(served.generic_loss),
        dense_generic_loss=_optional(dense.generic_loss) if dense else None,
        parameters=served.parameters,
        dense_parameters=dense.parameters if dense else None,
        checkpoint_bytes=served.checkpoint_bytes,
        dense_checkpoint_bytes=dense.checkpoint_bytes if dense else None,
        prefill_tokens_per_second=_optional(served.prefill_tokens_per_second),
        dense_prefill_tokens_per_second=(
            _optional(dense.prefill_tokens_per_second) if dense else None
        ),
        decode_tokens_per_second=_optional(served.decode_tokens_per_second),
        dense_decode_tokens_per_second=(
            _optional(dense.decode_tokens_per_second) if dense else None
        ),
    )
