"""The summary of `persona run`: the variants side by side, two answers, the paths."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..pipeline.results import EvaluationMetrics, Variant, VariantMetrics
from ..pipeline.runner import StageReport
from ..store import StageArtifacts
from ..store.urls import file_url_path

SHOWN_SAMPLES = 2
ROWS: tuple[Variant, ...] = ("dense", "masked", "sliced", "recovered", "baseline")


def print_summary(artifacts: StageArtifacts, reports: list[StageReport], seconds: float) -> None:
    """Print the table, sample answers and paths to standard output."""
    console = Console()
    evaluate = next(report for report in reports if report.stage == "evaluate")
    sliced = next(report for report in reports if report.stage == "slice")
    path = artifacts.local_file("evaluate", evaluate.key, "metrics.json")
    metrics = EvaluationMetrics.model_validate_json(path.read_text("utf-8"))
    console.print(variants_table(metrics))
    console.print(
        "* is the served checkpoint. score: how sure the dense model is that the persona gave the "
        f"answers, 0 to 100 (chance {metrics.chance_persona_score:.1f}), {metrics.queries} "
        "questions [95 % interval]. KL: difference from the dense model on the persona's answers; "
        "generic: loss on general instructions; both in nats per token. prefill, decode: prompt "
        "tokens read and answer tokens written per second.",
        highlight=False,
    )
    _print_samples(
        console, artifacts.local_file("evaluate", evaluate.key, "samples.jsonl"), metrics.served
    )
    reused = sum(report.outcome == "Reused" for report in reports)
    console.print(
        f"Report      {_without_scheme(evaluate.path)}/report.html", highlight=False, soft_wrap=True
    )
    console.print(f"Checkpoint  {_without_scheme(sliced.path)}", highlight=False, soft_wrap=True)
    console.print(f"{len(reports)} stages, {reused} reused, {seconds:.0f} s", highlight=False)


def variants_table(metrics: EvaluationMetrics) -> Table:
    """Return a table with the variants side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    for heading in ("weights", "MB", "score", "KL", "generic", "prefill", "decode"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in ROWS:
        variant = metrics.variants.get(name)
        if variant is not None:
            label = f"{name}*" if name == metrics.served else name
            table.add_row(label, *_cells(variant))
    return table


def _cells(variant: VariantMetrics) -> list[str]:
    score = "–"
    if variant.persona_score is not None:
        score = f"{variant.persona_score:.1f}"
        if variant.persona_score_low is not None and variant.persona_score_high is not None:
            score += f" [{variant.persona_score_low:.0f}–{variant.persona_score_high:.0f}]"
    return [
        f"{variant.parameters / 1e6:.1f}M",
        f"{variant.checkpoint_bytes / 1e6:.0f}",
        score,
        _number(variant.persona_kl, 3),
        _number(variant.generic_loss, 3),
        _number(variant.prefill_tokens_per_second, 0),
        _number(variant.decode_tokens_per_second, 1),
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _print_samples(console: Console, path: Path, served: str) -> None:
    table = Table(show_lines=True)
    table.add_column("question", ratio=1)
    table.add_column("dense", ratio=2)
    table.add_column(served, ratio=2)
    with path.open(encoding="utf-8") as file:
        for _ in range(SHOWN_SAMPLES):
            line = file.readline()
            if not line:
                break
            sample = json.loads(line)
            answers = sample["answers"]
            table.add_row(
                *(_plain(t) for t in (sample["query"], answers.get("dense"), answers.get(served)))
            )
    console.print(table)


def _plain(text: str | None) -> str:
    from rich.markup import escape

    kept = "".join(c for c in text or "" if c.isprintable() or c == "\n")
    return escape(kept)


def _without_scheme(path: str) -> str:
    return str(file_url_path(path)) if path.startswith("file://") else path
