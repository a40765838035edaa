"""Initial values of the mask scores."""

import torch
from torch import Tensor


def scores_from_rank(values: Tensor) -> Tensor:
    """Map each row's values to their ranks, spread evenly over [-1, 1]; ties by index.

    Args:
        values: `[n_layers, d_ff]`, larger means more important.

    Returns:
        Scores `[n_layers, d_ff]` float32; the largest value of each row gets 1.
    """
    order = torch.sort(values, dim=-1, descending=True, stable=True).indices
    spread = torch.linspace(1.0, -1.0, values.shape[-1]).expand_as(values)
    return torch.empty_like(values, dtype=torch.float32).scatter_(-1, order, spread.contiguous())


def random_scores(shape: tuple[int, int], seed: int) -> Tensor:
    """Draw uniform scores in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) * 2 - 1
