"""How often do the evaluation's 95 % intervals hold the truth?

Draws many evaluations of 8, 20 and 50 questions from distributions of scores whose mean is known,
and counts the intervals that hold it: of a mean, of a paired difference and of a retention. The
percentile bootstrap and Student's t of the mean are printed for comparison.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from results import add_output, report

from persona_jobs.evaluation.bootstrap import (
    Interval,
    Values,
    difference_interval,
    mean_interval,
    ratio_interval,
    t_quantile,
)

QUESTIONS = (8, 20, 50)
LOWEST, HIGHEST = 90.0, 98.0
SAMPLES = 500
# Enough draws that the truth is known to a few hundredths of a point.
TRUTH = 1_000_000

random = np.random.default_rng(0)
Shape = tuple[int, ...]

# Scores from 0 to 100, as models of several sizes have them.
SCORES: dict[str, Callable[[Shape], Values]] = {
    "one in five fails": lambda shape: np.where(
        random.random(shape) < 0.8, 85 + 15 * random.random(shape), 40 * random.random(shape)
    ),
    "low and skewed": lambda shape: 100 * random.beta(0.8, 2.2, shape),
    "high": lambda shape: 100 * random.beta(6, 2, shape),
    "middle": lambda shape: 100 * random.beta(1.5, 2, shape),
    "two in five near zero": lambda shape: np.where(
        random.random(shape) < 0.4, random.random(shape), 100 * random.beta(1.5, 2, shape)
    ),
    "four in five near zero": lambda shape: np.where(
        random.random(shape) < 0.8, 2 * random.random(shape), 100 * random.beta(3, 2, shape)
    ),
}
# A pruned model's scores from the dense model's on the same questions.
PAIRED: dict[str, Callable[[Values], Values]] = {
    "worse": lambda dense: dense * random.beta(3, 2, dense.shape),
    "noisy": lambda dense: 0.5 * dense + 50 * random.beta(1.5, 2, dense.shape),
    "close": lambda dense: np.clip(dense + random.normal(0, 8, dense.shape), 0, 100),
}
PAIRED_SCORES = ("low and skewed", "high", "middle", "two in five near zero")


def coverage(found: list[Interval | None], truth: float) -> tuple[float, float]:
    """Return how many of the intervals hold the truth, and how many are absent, in percent."""
    ends = [(i.low, i.high) for i in found if i and i.low is not None and i.high is not None]
    held = sum(low <= truth <= high for low, high in ends)
    return 100 * held / max(1, len(ends)), 100 * (1 - len(ends) / len(found))


def percentile_interval(values: Values) -> Interval:
    """Return the mean with its percentile bootstrap interval."""
    drawn = values[random.integers(len(values), size=(SAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def t_interval(values: Values) -> Interval:
    """Return the mean with Student's t interval."""
    half = t_quantile(len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)


def main() -> None:
    """Run the simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=1000, help="evaluations of each kind")
    add_output(parser)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    ranges: dict[str, list[float]] = {}

    def record(method: str, count: int, kind: str, found: list[Any], truth: float) -> None:
        held, absent = coverage(found, truth)
        shown = f"{held:.1f} %" + (f", {absent:.0f} % absent" if absent else "")
        results[f"{method}, {count}, {kind}"] = shown
        ranges.setdefault(f"{method}, {count} questions", []).append(held)

    for count in QUESTIONS:
        for kind, draw in SCORES.items():
            truth = float(draw((TRUTH,)).mean())
            rows = draw((options.evaluations, count))
            means = [mean_interval(row, samples=SAMPLES, seed=n) for n, row in enumerate(rows)]
            record("mean", count, kind, means, truth)
            record("t for comparison", count, kind, [t_interval(row) for row in rows], truth)
            percentiles = [percentile_interval(row) for row in rows]
            record("percentile for comparison", count, kind, percentiles, truth)
        for kind in PAIRED_SCORES:
            for name, change in PAIRED.items():
                many = SCORES[kind]((TRUTH,))
                changed = change(many)
                dense = SCORES[kind]((options.evaluations, count))
                other = change(dense)
                pairs = list(zip(dense, other, strict=True))
                label = f"{kind}, {name}"
                truth = float((changed - many).mean())
                found = [difference_interval(b - a) for a, b in pairs]
                record("difference", count, label, found, truth)
                truth = 100 * float(changed.mean() / many.mean())
                record("retention", count, label, [ratio_interval(b, a) for a, b in pairs], truth)
    for key, values in ranges.items():
        results[key] = f"{min(values):.1f} to {max(values):.1f} %"
    ours = [key for key in ranges if "comparison" not in key]
    report(
        "coverage",
        options,
        results,
        bounds=dict.fromkeys(ours, f"{LOWEST:.0f} to {HIGHEST:.0f} %"),
        met={key: min(ranges[key]) >= LOWEST and max(ranges[key]) <= HIGHEST for key in ours},
    )


if __name__ == "__main__":
    main()
