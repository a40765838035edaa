"""95 % confidence intervals over questions: of a mean, of a paired difference, and of a ratio.

The questions are the independent units: answers to one question are averaged first. With fewer
than five questions no method is right, and the interval is absent.

- A mean of values on a bounded scale: the Bayesian bootstrap (Rubin 1981) with a quarter of a
  pseudo-observation at each end of the scale. Few questions often miss a rare value, such as the
  one answer in five that fails; the pseudo-observations leave room for it, where the percentile
  bootstrap and Student's t are far too sure.
- A paired difference: Student's t with Johnson's correction for skewness (1978).
- A ratio of two means over the same questions: Fieller's interval (1954), absent where the
  denominator cannot be told from zero.

`benchmarks/coverage.py` simulates how often each of them holds the truth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Name = TypeVar("Name", bound=str)
Values = NDArray[np.float64]
CONFIDENCE = 0.95
MIN_QUESTIONS = 5
SCALE = (0.0, 100.0)
PSEUDO_OBSERVATION = 0.25
# Bounds the matrix of weights: 2 M weights are 16 MB.
_MAX_WEIGHTS = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A mean, difference or ratio with its confidence interval, in the unit of the values.

    Attributes:
        mean: the estimate from the values.
        low: lower end of the interval, or None where there are too few values for one.
        high: upper end of the interval, or None likewise.
    """

    mean: float
    low: float | None = None
    high: float | None = None


def intervals(
    values: Mapping[Name, Sequence[float]], *, samples: int, seed: int
) -> dict[Name, Interval]:
    """Return the mean of each named row of values with its interval.

    Args:
        values: rows of values on the scale from 0 to 100, one for each question.
        samples: number of draws of the Bayesian bootstrap.
        seed: seed of the draws; equal seeds give equal intervals.

    Raises:
        ValueError: a row is empty.
    """
    return {
        name: mean_interval(_array(row), samples=samples, seed=seed) for name, row in values.items()
    }


def mean_interval(values: Values, *, samples: int, seed: int) -> Interval:
    """Return the mean of values `[n]` from 0 to 100, with its Bayesian bootstrap interval.

    Args:
        values: one value for each question.
        samples: number of draws.
        seed: seed of the draws.
    """
    mean, count = float(values.mean()), len(values)
    if count < MIN_QUESTIONS:
        return Interval(mean)
    # Sorted, so that the order of the questions changes nothing.
    points = np.array([SCALE[0], *np.sort(values), SCALE[1]])
    shapes = np.ones(count + 2)
    shapes[[0, -1]] = PSEUDO_OBSERVATION
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, rows := max(1, _MAX_WEIGHTS // len(points))):
        weights = random.gamma(shapes, size=(min(rows, samples - start), len(points)))
        means.append(weights @ points / weights.sum(axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def differences(values: Mapping[Name, Sequence[float]], reference: Name) -> dict[Name, Interval]:
    """Return the paired difference of every other row to the row `reference`, with its interval."""
    base = _array(values[reference])
    return {
        name: difference_interval(_array(row) - base)
        for name, row in values.items()
        if name != reference
    }


def difference_interval(values: Values) -> Interval:
    """Return the mean of paired differences `[n]` with Johnson's t interval."""
    mean, count = float(values.mean()), len(values)
    if count < MIN_QUESTIONS:
        return Interval(mean)
    deviation = float(values.std(ddof=1))
    if deviation == 0:
        return Interval(mean, mean, mean)
    quantile = t_quantile(count - 1)
    third_moment = float(((values - mean) ** 3).mean())
    shift = third_moment / (6 * count * deviation**2) * (1 + 2 * quantile**2)
    half = quantile * deviation / math.sqrt(count)
    # Strong skewness must not move the interval off the estimate.
    return Interval(mean, min(mean + shift - half, mean), max(mean + shift + half, mean))


def retentions(
    values: Mapping[Name, Sequence[float]], reference: Name
) -> dict[Name, Interval | None]:
    """Return each other row's mean in percent of the mean of the row `reference`, with interval.

    A retention is None where the reference's mean is 0.
    """
    base = _array(values[reference])
    return {
        name: ratio_interval(_array(row), base) for name, row in values.items() if name != reference
    }


def ratio_interval(values: Values, base: Values) -> Interval | None:
    """Return mean(values) / mean(base) in percent with Fieller's interval, both `[n]`, paired."""
    mean, base_mean, count = float(values.mean()), float(base.mean()), len(values)
    if len(base) != count:
        raise ValueError(f"{count} values can't be paired with {len(base)}")
    if base_mean <= 0:
        return None
    ratio = mean / base_mean
    if count < MIN_QUESTIONS:
        return Interval(100 * ratio)
    squared = t_quantile(count - 1) ** 2 / count
    (variance, covariance), (_, base_variance) = np.cov(values, base)
    # The interval's ends solve a r^2 - 2 b r + c = 0.
    a = base_mean**2 - squared * float(base_variance)
    b = mean * base_mean - squared * float(covariance)
    c = mean**2 - squared * float(variance)
    if a <= 0:
        return Interval(100 * ratio)
    half = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(100 * ratio, 100 * max((b - half) / a, 0.0), 100 * (b + half) / a)


@lru_cache(maxsize=64)
def t_quantile(degrees: int) -> float:
    """Return the upper 2.5 % point of Student's t distribution.

    With t = sqrt(degrees) tan(angle), its density is cos(angle)^(degrees - 1).
    """
    edges = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos((edges[1:] + edges[:-1]) / 2) ** (degrees - 1)
    mass = np.cumsum(density)
    angle = float(np.interp(CONFIDENCE, mass / mass[-1], edges[1:]))
    return math.sqrt(degrees) * math.tan(angle)


def _array(row: Sequence[float]) -> Values:
    if not len(row):
        raise ValueError("there are no values to take a mean of")
    return np.asarray(row, dtype=np.float64)
