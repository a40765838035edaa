"""`persona export`: the finished persona as files for other programs."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from ..api import PersonaModelSpec
from ..errors import InputError, StoreError
from ..export.card_facts import stored_facts
from ..export.model_card import CARD, model_card
from ..pipeline.graph import PlannedStage, plan
from ..pipeline.process import stop_on_signals
from ..pipeline.references import add_references, owner_of, planned_keys
from ..pipeline.runner import planned_stage
from ..sources import cards
from .run import EXIT_CTRL_C, Pipeline, open_pipeline, run_planned


def export_persona(
    file: Path, store_url: str | None, kind: str, quantization: str | None, directory: Path | None
) -> None:
    """Make the export unless the store has it, copy it to a folder, and print what is there.

    Args:
        file: file with the PersonaModel.
        store_url: the artifact store, or None for the default.
        kind: format of the export.
        quantization: its number format; None for those of the spec.
        directory: where to put the files; None for a folder with the persona's name.

    Raises:
        InputError: there is no checkpoint yet, or it can't be exported.
        StoreError: the folder can't be written.
    """
    pipeline = open_pipeline(file, store_url)
    sliced = planned_stage(pipeline.resource.spec, "slice")
    if pipeline.artifacts.manifest("slice", sliced.key) is None:
        raise InputError(
            "There is no checkpoint for this PersonaModel yet",
            hint=f"Run `persona run {file}` first",
            subject=str(file),
        )
    names, stage, pipeline = _chosen(pipeline, kind, quantization)
    pipeline.stop = stop_on_signals(on_overdue=lambda: EXIT_CTRL_C)
    owner = owner_of(pipeline.resource, os.environ)
    add_references(pipeline.artifacts.store, owner, planned_keys(pipeline.resource.spec))
    run_planned(pipeline, stage)
    made = pipeline.artifacts.local_dir(stage.name, stage.key)
    target = directory or Path(f"{pipeline.resource.metadata.name}-{kind.lower()}")
    files = _copy(made, target, names)
    facts = stored_facts(
        pipeline.artifacts,
        pipeline.resource.spec,
        _persona_text(pipeline),
        {planned.name: planned.key for planned in pipeline.stages},
        [path for path in files if path.suffix == ".gguf"],
    )
    files.append(target / CARD)
    files[-1].write_text(model_card(facts), encoding="utf-8")
    for path in files:
        sys.stdout.write(f"{path}\n")


def _chosen(
    pipeline: Pipeline, kind: str, quantization: str | None
) -> tuple[list[str], PlannedStage, Pipeline]:
    """Return the wanted number formats, and the stage that makes them or has made them."""
    spec = pipeline.resource.spec
    written: list[str] = [export.quantization for export in spec.exports]
    if quantization is None and written:
        return written, planned_stage(spec, "export"), pipeline
    wanted = quantization or "Q8_0"
    if wanted in written:
        stage = planned_stage(spec, "export")
        if pipeline.artifacts.manifest(stage.name, stage.key) is not None:
            return [wanted], stage, pipeline
    document = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["exports"] = [{"format": kind, "quantization": wanted}]
    alone = PersonaModelSpec.model_validate(document)
    resource = pipeline.resource.model_copy(update={"spec": alone})
    pipeline = replace(pipeline, resource=resource, stages=plan(alone))
    return [wanted], planned_stage(alone, "export"), pipeline


def _persona_text(pipeline: Pipeline) -> str:
    given = pipeline.resource.spec.persona
    if given.card is not None:
        return cards.of_spec(given.card, pipeline.cache).text
    return given.text or ""


def _copy(made: Path, target: Path, names: list[str]) -> list[Path]:
    """Copy the files of the chosen number formats and return where they are."""
    copied = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            for suffix in ("gguf", "Modelfile"):
                source = made / f"model-{name}.{suffix}"
                copied.append(target / source.name)
                shutil.copyfile(source, copied[-1])
    except OSError as error:
        raise StoreError(
            f"{target} can't be written ({error.strerror})",
            hint="Name another folder with --output",
            subject=str(target),
        ) from None
    return copied
