"""A judge's figures from its verdicts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ...pipeline.judge_results import JudgeScore
from ..bootstrap import difference_interval
from ..measurements import rounded
from .verdict import Verdict


def judge_score(verdicts: Sequence[Verdict], dense: Sequence[Verdict] | None) -> JudgeScore:
    """Return the figures of one variant's answers, with Student's t intervals.

    Args:
        verdicts: one per question, at least one.
        dense: verdicts on the dense model's answers, None where these are the ones given.
    """
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    figures: dict[str, float | None] = {}
    if scores:
        found = difference_interval(np.asarray(scores))
        figures = {"score": found.mean, "low": found.low, "high": found.high}
    # An answer without a score counts as 0; a question without the dense model's doesn't count.
    paired = [
        (verdict.score or 0.0) - other.score
        for verdict, other in zip(verdicts, dense or [], strict=False)
        if other.score is not None
    ]
    if paired:
        found = difference_interval(np.asarray(paired))
        ends = {"difference_low": found.low, "difference_high": found.high}
        figures |= {"difference": found.mean, **ends}
    return JudgeScore(
        **{name: rounded(value, 2) for name, value in figures.items()},
        score_with_zeros=round(sum(scores) / len(verdicts), 2),
        scored=outcomes["scored"],
        refused=outcomes["refused"],
        unparseable=outcomes["unparseable"],
        failed=outcomes["failed"],
        weighted=sum(verdict.mode == "weighted" for verdict in verdicts),
    )


def mode_of(scores: Mapping[str, JudgeScore]) -> Literal["weighted", "raw", "mixed"] | None:
    """Return how the scores came about, None where there are none."""
    scored = sum(score.scored for score in scores.values())
    weighted = sum(score.weighted for score in scores.values())
    if not scored:
        return None
    return "weighted" if weighted == scored else "mixed" if weighted else "raw"
