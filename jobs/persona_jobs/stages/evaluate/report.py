"""The content of the evaluation report, from the measurements and other stages' files."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue, ValidationError

from ...dataset import CurvePoint, ScoredQuery, read_jsonl
from ...errors import CorruptArtifactError
from ...evaluation.bootstrap import Interval
from ...evaluation.report import Curve, KeptChannels, ReportData
from ...evaluation.report.parts import (
    as_yaml,
    environment_rows,
    ranking,
    shown_samples,
)
from ...evaluation.samples import SampleLine
from ...evaluation.speed import Speed
from ...pipeline.context import StageContext
from ...pipeline.results import EvaluationMetrics, RecoveryMetrics, Variant
from .variants import Models

CURVES: tuple[tuple[str, str], ...] = (
    ("mask", "Mask learning"),
    ("recover", "Recovery: fine-tuning"),
)


def report_data(
    context: StageContext,
    models: Models,
    metrics: EvaluationMetrics,
    samples: Sequence[SampleLine],
    *,
    persona: str,
    queries: Sequence[ScoredQuery],
    differences: Mapping[Variant, Interval],
    speeds: Mapping[Variant, Speed],
    notes: Sequence[str],
    environment: Mapping[str, JsonValue],
) -> ReportData:
    """Return the content of the report.

    Args:
        context: the stage's context: the spec and the learning stages' curves.
        models: the models, for the kept channels.
        metrics: the measurements.
        samples: questions and answers.
        persona: the persona's text.
        queries: all queries with their persona sensitivity.
        differences: persona score minus the dense model's.
        speeds: prefill and decode speed, by variant.
        notes: how the figures were measured.
        environment: device, number format and threads.
    """
    spec = context.spec
    baseline = models.baseline_mask
    return ReportData(
        persona=persona,
        base_model=" ".join(filter(None, (spec.base_model.uri, spec.base_model.revision))),
        created_at=datetime.now(UTC),
        metrics=metrics,
        kept=KeptChannels(
            models.mask.bits.tolist(), None if baseline is None else baseline.bool().tolist()
        ),
        ranking=ranking(queries),
        samples=shown_samples(samples),
        settings=as_yaml(spec.model_dump(mode="json", by_alias=True, exclude_none=True)),
        differences=differences,
        curves=_curves(context),
        recovery=_recovery(context),
        speeds=speeds,
        notes=notes,
        environment=environment_rows(environment),
    )


def _curves(context: StageContext) -> list[Curve]:
    """Return the losses of the learning stages that ran and wrote a curve."""
    curves = []
    for stage, title in CURVES:
        key = context.planned.inputs.get(stage)
        manifest = None if key is None else context.artifacts.manifest(stage, key)
        if manifest is not None and "curve.jsonl" in manifest.files:
            path = context.input_file(stage, "curve.jsonl")
            curves.append(Curve(title, read_jsonl(path, CurvePoint)))
    return curves


def _recovery(context: StageContext) -> RecoveryMetrics | None:
    """Return what the recover stage reports, or None without it.

    Raises:
        CorruptArtifactError: its record is not valid.
    """
    key = context.planned.inputs.get("recover")
    manifest = None if key is None else context.artifacts.manifest("recover", key)
    if manifest is None:
        return None
    try:
        return RecoveryMetrics.model_validate(manifest.metrics)
    except ValidationError:
        raise CorruptArtifactError(
            "The record of the recover stage lacks its metrics",
            hint="Delete the recover stage's folder in the store and run again",
            subject="manifest.json",
        ) from None
