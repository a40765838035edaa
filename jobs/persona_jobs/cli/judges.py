"""What the judges say, for the summary of `persona run`."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from ..pipeline.judge_results import JudgeCheck, JudgeMetrics, JudgeScore


def judges_table(judges: Sequence[JudgeMetrics]) -> Table:
    """Return a table with one row per judge and variant."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("judge", "variant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("score", "with zeros", "scored", "refused", "unparseable", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for judge in judges:
        for index, (variant, score) in enumerate(judge.variants.items()):
            table.add_row("" if index else judge.name, variant, *_cells(score))
    return table


def trust(judge: JudgeMetrics) -> str:
    """Return one line that says whether a judge is trusted, and what its checks showed."""
    mode = {"weighted": "weighted by token probabilities", "raw": "as written"}
    how = f", scores {mode.get(judge.mode, judge.mode)}" if judge.mode else ""
    verdict = "trusted" if judge.trusted else f"not trusted: {judge.reason}"
    checks = ", ".join(f"{check.name} {_figure(check)}" for check in judge.checks)
    shown = f" Checks: {checks}." if checks else ""
    return f"Judge {judge.name} ({judge.model}{how}) is {verdict}.{shown}"


def _cells(score: JudgeScore) -> list[str]:
    shown = "–" if score.score is None else f"{score.score:.1f}"
    if score.low is not None and score.high is not None:
        shown += f" [{score.low:.0f}–{score.high:.0f}]"
    counts = (score.scored, score.refused, score.unparseable, score.failed)
    return [shown, f"{score.score_with_zeros:.1f}", *map(str, counts)]


def _figure(check: JudgeCheck) -> str:
    return "not measured" if check.difference is None else f"{check.difference:+.1f} points"
