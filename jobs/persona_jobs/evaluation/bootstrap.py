"""Confidence intervals by the bootstrap (Efron 1979), percentile method, over questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name", bound=str)
CONFIDENCE = 0.95
# Bounds the resampled index matrix: 2 M indices are 16 MB.
_MAX_INDICES = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    Attributes:
        mean: mean of the original values.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    low: float
    high: float


def resampled_means(values: Tensor, *, samples: int, seed: int) -> Tensor:
    """Return the means of bootstrap resamples of the columns.

    All rows (variants of the model) are resampled with the same columns (questions), so that
    differences between rows are paired.

    Args:
        values: `[rows, n]`, n >= 1.
        samples: number of resamples.
        seed: seed of the resamples; equal seeds give equal resamples.

    Returns:
        `[samples, rows]`, float64.
    """
    if values.dim() != 2 or values.shape[1] == 0:
        raise ValueError(f"values of shape {list(values.shape)} can't be resampled")
    data = values.detach().to(device="cpu", dtype=torch.float64)
    count = data.shape[1]
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, samples, rows := max(1, _MAX_INDICES // count)):
        drawn = torch.randint(count, (min(rows, samples - start), count), generator=generator)
        means.append(torch.stack([row[drawn].mean(dim=1) for row in data], dim=1))
    return torch.cat(means)


def intervals(
    values: Mapping[Name, Sequence[float]], *, samples: int, seed: int
) -> dict[Name, Interval]:
    """Return the mean and percentile interval of each named row of values, all equally long."""
    names = list(values)
    data = torch.tensor([list(values[name]) for name in names], dtype=torch.float64)
    means = resampled_means(data, samples=samples, seed=seed)
    tail = (1 - CONFIDENCE) / 2
    bounds = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return {
        name: Interval(float(data[i].mean()), float(bounds[0, i]), float(bounds[1, i]))
        for i, name in enumerate(names)
    }


def differences(
    values: Mapping[Name, Sequence[float]], reference: Name, *, samples: int, seed: int
) -> dict[Name, Interval]:
    """Return the paired difference of every other row to the row `reference`, with its interval."""
    base = values[reference]
    paired = {
        name: [value - zero for value, zero in zip(row, base, strict=True)]
        for name, row in values.items()
        if name != reference
    }
    if not paired:
        return {}
    return intervals(paired, samples=samples, seed=seed)
