"""`persona run`: the whole pipeline on one machine."""

import json
import logging
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bars

from ..api import PersonaModel, load_resource
from ..errors import PersonaError, StageInterruptedError
from ..pipeline.context import StopFlag
from ..pipeline.graph import PlannedStage, plan
from ..pipeline.process import LogProgress, stop_on_signals
from ..pipeline.references import add_references, owner_of, planned_keys
from ..pipeline.revisions import record_revision
from ..pipeline.runner import StageReport, run_stage
from ..sources import cards
from ..sources.cards import CardPersona
from ..store import StageArtifacts, open_store
from .local import default_cache, default_store, resolved
from .progress import StageBar, make_bars
from .summary import print_summary

EXIT_CTRL_C = 130  # as shells report a program that Ctrl-C ended


@dataclass
class Pipeline:
    """A persona's pipeline on one machine.

    Attributes:
        resource: the resolved PersonaModel.
        stages: the planned stages.
        artifacts: the store.
        cache: base models and downloads.
        console: where progress goes (standard error).
        stop: set by Ctrl-C.
        card: what the persona's character card holds, None where the spec has the text.
    """

    resource: PersonaModel
    stages: list[PlannedStage]
    artifacts: StageArtifacts
    cache: Path
    console: Console
    stop: StopFlag
    card: CardPersona | None = None


def open_pipeline(file: Path, store_url: str | None) -> Pipeline:
    """Read the PersonaModel and open its store.

    Raises:
        PersonaError: the PersonaModel, its character card or the store can't be used.
    """
    resource = resolved(load_resource(file))
    url = store_url or resource.spec.storage.uri or default_store(file)
    cache = default_cache()
    card = resource.spec.persona.card
    return Pipeline(
        resource=resource,
        stages=plan(resource.spec),
        artifacts=StageArtifacts(open_store(url), cache / "store"),
        cache=cache,
        console=Console(stderr=True),
        stop=StopFlag(),
        card=cards.of_spec(card, cache) if card else None,
    )


def run_pipeline(file: Path, store_url: str | None, *, as_json: bool) -> int:
    """Run all stages and print the result. Returns the exit code."""
    started = time.monotonic()
    pipeline = open_pipeline(file, store_url)
    pipeline.stop = stop_on_signals(
        on_first=lambda: pipeline.console.print(
            "Stopping at the next safe point (press Ctrl-C again to quit at once)"
        ),
        on_overdue=lambda: _stopped(pipeline.console),
    )
    reports: list[StageReport] = []
    failure: PersonaError | None = None
    _announce(pipeline)
    resource, store = pipeline.resource, pipeline.artifacts.store
    try:
        add_references(store, owner_of(resource, os.environ), planned_keys(resource.spec))
        for report in _reports(pipeline):
            reports.append(report)
            if report.stage == "evaluate":
                record_revision(store, resource)
    except PersonaError as error:
        failure = error
    seconds = time.monotonic() - started
    if as_json:
        sys.stdout.write(json.dumps(_document(pipeline, reports, failure, seconds)) + "\n")
    if isinstance(failure, StageInterruptedError):
        return _stopped(pipeline.console)
    if failure is not None:
        raise failure
    if not as_json:
        print_summary(pipeline.artifacts, reports, seconds)
    return 0


def run_planned(pipeline: Pipeline, stage: PlannedStage) -> StageReport:
    """Run one of the pipeline's stages, with progress as `persona run` shows it.

    Raises:
        PersonaError: the stage failed.
    """
    report: StageReport = next(iter([*_reports(replace(pipeline, stages=[stage]))]))
    return report


def _announce(pipeline: Pipeline) -> None:
    """Say what of a character card is not used, and what is ahead where it is expensive."""
    from .plan import expensive, plan_of, summary

    for note in pipeline.card.notes if pipeline.card else ():
        pipeline.console.print(f"{note}.", highlight=False, markup=False, soft_wrap=True)

    try:
        plan = plan_of(pipeline)
    except PersonaError:
        return  # the stage that needs it will say what is wrong
    if expensive(plan):
        pipeline.console.print(
            f"Ahead: {summary(plan)} (`persona plan` shows more)", highlight=False, soft_wrap=True
        )


def _stopped(console: Console) -> int:
    console.show_cursor()
    console.print("Stopped. Run the same command to resume.", highlight=False)
    return EXIT_CTRL_C


def _reports(pipeline: Pipeline) -> Any:
    console = pipeline.console
    if console.is_terminal:
        with make_bars(console) as bars:
            for stage in pipeline.stages:
                yield _with_bar(pipeline, stage, bars)
        return
    logging.getLogger("persona_jobs").setLevel(logging.INFO)
    for stage in pipeline.stages:
        progress = LogProgress(stage.name)
        report = _run(pipeline, stage, progress)
        console.print(f"{stage.name}: {_outcome(report)}", highlight=False, soft_wrap=True)
        yield report


def _with_bar(pipeline: Pipeline, stage: PlannedStage, bars: Bars) -> StageReport:
    bar = StageBar(bars, stage.name)
    report = _run(pipeline, stage, bar)
    bar.finish(_outcome(report))
    return report


def _run(pipeline: Pipeline, stage: PlannedStage, progress: Any) -> StageReport:
    return run_stage(
        pipeline.resource.spec,
        stage,
        pipeline.artifacts,
        cache=pipeline.cache,
        progress=progress,
        stop=pipeline.stop,
    )


def _outcome(report: StageReport) -> str:
    return "reused" if report.outcome == "Reused" else f"made in {report.seconds:.0f} s"


def _document(
    pipeline: Pipeline, reports: list[StageReport], failure: PersonaError | None, seconds: float
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": pipeline.resource.metadata.name,
        "store": pipeline.artifacts.store.url,
        "seconds": round(seconds, 1),
        "stages": [
            {
                "stage": report.stage,
                "key": report.key,
                "path": report.path,
                "outcome": "reused" if report.outcome == "Reused" else "made",
                "seconds": report.seconds,
                "metrics": report.results,
            }
            for report in reports
        ],
    }
    if failure is not None:
        document["error"] = {
            "class": type(failure).__name__,
            "message": failure.message,
            "subject": failure.subject,
            "hint": failure.hint,
        }
    return document
