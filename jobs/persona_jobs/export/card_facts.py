"""What the store knows of a persona's model, for its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..api import PersonaModelSpec
from ..pipeline.results import EvaluationMetrics, RecoveryMetrics
from ..store import StageArtifacts
from .model_card import CARD, CardFacts, ExportedFile, licence_of


def stored_facts(
    artifacts: StageArtifacts,
    spec: PersonaModelSpec,
    persona: str,
    keys: dict[str, str],
    files: list[Path],
) -> CardFacts:
    """Return the facts of a finished checkpoint and its exported files.

    Args:
        artifacts: the store.
        spec: the resolved spec.
        persona: the persona's text.
        keys: content keys of the finished stages among slice, recover, evaluate and export; what a
            stage that is not among them would say is not known.
        files: the exported files, none for a card of the checkpoint.
    """
    results = {}
    for stage, key in keys.items():
        manifest = artifacts.manifest(stage, key)
        if manifest is not None:
            results[stage] = manifest.metrics
    licence = {}
    made = artifacts.manifest("slice", keys["slice"])
    if made is not None and CARD in made.files:
        licence = licence_of(artifacts.local_file("slice", keys["slice"], CARD))
    rounding = results.get("export", {})
    return card_facts(
        spec,
        persona,
        licence,
        results,
        files=tuple(exported_file(path, rounding) for path in files),
    )


def card_facts(
    spec: PersonaModelSpec,
    persona: str,
    licence: Mapping[str, str],
    results: Mapping[str, Mapping[str, Any]],
    *,
    files: tuple[ExportedFile, ...] = (),
) -> CardFacts:
    """Return the facts of a checkpoint.

    Args:
        spec: the resolved spec.
        persona: the persona's text.
        licence: the licence fields of the base model's own card.
        results: results of the stages that are known, by stage.
        files: the exported files.
    """
    recovery, evaluation = results.get("recover"), results.get("evaluate")
    return CardFacts(
        base_uri=spec.base_model.uri,
        base_revision=spec.base_model.revision,
        licence=licence,
        persona=persona,
        sparsity_percent=spec.pruning.sparsity_percent,
        method=spec.pruning.method,
        sliced=results.get("slice", {}),
        recovery=RecoveryMetrics.model_validate(recovery) if recovery else None,
        evaluation=EvaluationMetrics.model_validate(evaluation) if evaluation else None,
        files=files,
    )


def exported_file(path: Path, results: Mapping[str, object]) -> ExportedFile:
    """Return what a card says of one exported file.

    Args:
        path: the file, `model-<quantization>.gguf`.
        results: results of the export stage.
    """
    quantization = path.stem.removeprefix("model-")
    change = results.get(f"perplexityIncreasePercent{quantization}")
    percent = float(change) if isinstance(change, int | float) else None
    return ExportedFile(path.name, quantization, path.stat().st_size, percent)
