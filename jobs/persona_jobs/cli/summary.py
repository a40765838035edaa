"""The summary of `persona run`: the variants side by side, answers, paths, and the balance."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..dataset import read_jsonl
from ..pipeline.results import EvaluationMetrics, ShownAnswers, Variant, VariantMetrics
from ..pipeline.runner import StageReport
from ..store import StageArtifacts
from ..store.urls import file_url_path
from .judges import judges_table, trust

# Speeds of equal models differ by less than this share between two measurements.
SPEED_NOISE = 0.05
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
        "* is the served checkpoint. score: voice x relevance x fluency x originality of the "
        f"answers to {metrics.queries} questions, 0 to 100 [95 % interval]; usual answers without "
        f"the persona have about {metrics.chance_persona_score:.0f}. ret.: score in percent of the "
        "dense model's. parts: voice, relevance, fluency. KL: difference from the dense model on "
        "the persona's answers; generic: loss on general instructions; both in nats per token. "
        "read/s, write/s: tokens of prompts and answers per second.",
        highlight=False,
    )
    if metrics.judges:
        console.print(judges_table(metrics.judges))
        for judge in metrics.judges:
            console.print(trust(judge), highlight=False, markup=False)
    shown = read_jsonl(artifacts.local_file("evaluate", evaluate.key, "shown.jsonl"), ShownAnswers)
    if shown:
        console.print(answers_table(shown, metrics.served))
    reused = sum(report.outcome == "Reused" for report in reports)
    console.print(
        f"Report      {_without_scheme(evaluate.path)}/report.html", highlight=False, soft_wrap=True
    )
    console.print(f"Checkpoint  {_without_scheme(sliced.path)}", highlight=False, soft_wrap=True)
    for report in reports:
        if report.stage == "export":
            folder = _without_scheme(report.path)
            console.print(f"Exports     {folder}", highlight=False, soft_wrap=True)
    console.print(f"{len(reports)} stages, {reused} reused, {seconds:.0f} s", highlight=False)
    made = sum(report.seconds for report in reports)
    console.print(balance(metrics, made), highlight=False, soft_wrap=True)


def balance(metrics: EvaluationMetrics, seconds: float) -> str:
    """Return one line: what got smaller, what got faster, and what it cost.

    Args:
        metrics: results of the evaluation.
        seconds: time that all stages took when they were made.
    """
    dense, served = metrics.variants["dense"], metrics.variants[metrics.served]
    costs = []
    if served.persona_kl is not None:
        costs.append(
            f"the persona's answers differ from the dense model's by {served.persona_kl:.2f} nats "
            "per token"
        )
    if _rises(dense.generic_loss, served.generic_loss):
        costs.append(
            f"the loss on general instructions rises from {dense.generic_loss:.2f} to "
            f"{served.generic_loss:.2f}"
        )
    costs.append(f"{seconds:.0f} s of work" if seconds < 120 else f"{seconds / 60:.0f} min of work")
    return f"{_smaller(dense, served)} {_faster(dense, served)} Cost: {', '.join(costs)}."


def _smaller(dense: VariantMetrics, served: VariantMetrics) -> str:
    removed = 100 * (1 - served.parameters / dense.parameters)
    # A quantized base model can have smaller files than the checkpoint with fewer weights.
    larger = "but " if served.checkpoint_bytes > dense.checkpoint_bytes else ""
    return (
        f"Smaller: {removed:.0f} % fewer weights, {larger}{served.checkpoint_bytes / 1e6:.3g} MB "
        f"of files instead of {dense.checkpoint_bytes / 1e6:.3g} MB."
    )


def _rises(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before


def _faster(dense: VariantMetrics, served: VariantMetrics) -> str:
    ratios = {
        what: now / before
        for what, before, now in (
            ("reading prompts", dense.prefill_tokens_per_second, served.prefill_tokens_per_second),
            ("writing answers", dense.decode_tokens_per_second, served.decode_tokens_per_second),
        )
        if before and now
    }
    if not ratios:
        return "Speed was not measured."
    faster = {what: ratio for what, ratio in ratios.items() if ratio > 1 + SPEED_NOISE}
    others = {what: ratio for what, ratio in ratios.items() if what not in faster}
    if not faster:
        return f"Nothing got faster: {_times(others)} the dense model's speed."
    rest = f" (but {_times(others)})" if others else ""
    return f"Faster: {_times(faster)} the dense model's speed{rest}."


def _times(ratios: Mapping[str, float]) -> str:
    return " and ".join(f"{what} at {ratio:.2f} times" for what, ratio in ratios.items())


def variants_table(metrics: EvaluationMetrics) -> Table:
    """Return a table with the variants side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    for heading in (
        "MB",
        "score",
        "ret.",
        "parts",
        "KL",
        "generic",
        "read/s",
        "write/s",
    ):
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
        score = f"{variant.persona_score:.0f}"
        if variant.persona_score_low is not None and variant.persona_score_high is not None:
            score += f" [{variant.persona_score_low:.0f}–{variant.persona_score_high:.0f}]"
    return [
        f"{variant.checkpoint_bytes / 1e6:.0f}",
        score,
        _number(variant.persona_score_retention, 0),
        _parts(variant),
        _number(variant.persona_kl, 3),
        _number(variant.generic_loss, 3),
        _number(variant.prefill_tokens_per_second, 0),
        _number(variant.decode_tokens_per_second, 1),
    ]


def _parts(variant: VariantMetrics) -> str:
    if variant.voice is None:
        return "–"
    parts = (variant.voice, variant.relevance, variant.fluency)
    return "/".join(_number(part, 0) for part in parts)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def answers_table(shown: Sequence[ShownAnswers], served: Variant) -> Table:
    """Return a table with the dense model's answers beside the checkpoint's."""
    table = Table(show_lines=True)
    table.add_column("question", ratio=1)
    table.add_column("dense", ratio=2)
    table.add_column(served, ratio=2)
    for line in shown:
        answers = (line.answers.get("dense"), line.answers.get(served))
        table.add_row(*(_plain(text) for text in (line.query, *answers)))
    return table


def _plain(text: str | None) -> str:
    from rich.markup import escape

    kept = "".join(c for c in text or "" if c.isprintable() or c == "\n")
    return escape(kept)


def _without_scheme(path: str) -> str:
    return str(file_url_path(path)) if path.startswith("file://") else path
