"""The paper's persona sensitivity, with the reference personas folded into one mean.

    s(q) = 1/(B r) * sum_b sum_j (1 - cos(h_Pj^b(q), h_target^b(q)))

The cosine is linear in the reference's unit vector, so the sum over the r references needs only
their mean unit vector m^b = 1/r sum_j h_Pj^b / |h_Pj^b|:

    s(q) = 1/B * sum_b (1 - <m^b, h_target^b / |h_target^b|>)

m does not depend on the target: it is computed once for a base model and its instructions, and
every further persona costs one forward pass per query instead of r + 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def block_range(blocks: int, first: int, last: int | None) -> range:
    """Return the blocks that are compared.

    Raises:
        ValueError: the range lies outside the model's blocks.
    """
    end = blocks - 1 if last is None else last
    if not 0 <= first <= end < blocks:
        raise ValueError(f"blocks {first} to {end} of a model that has blocks 0 to {blocks - 1}")
    return range(first, end + 1)


def block_scores(mean_unit: Tensor, hidden_states: Tensor) -> Tensor:
    """Return the sensitivity of each block, `[n, B]`: 1 minus the mean cosine to the references.

    Args:
        mean_unit: mean unit vector of the references' hidden states, `[n, B, d]`.
        hidden_states: hidden states under the target persona, `[n, B, d]`.
    """
    return 1 - (mean_unit.float() * F.normalize(hidden_states.float(), dim=-1)).sum(dim=-1)


@dataclass(frozen=True)
class Ranking:
    """Queries in order of decreasing sensitivity.

    Attributes:
        order: indices of the queries, best first.
        scores: s(q) by index of the query.
        kept: how many of the first are kept.
    """

    order: list[int]
    scores: list[float]
    kept: int


def rank(scores: Tensor, keep_percent: int) -> Ranking:
    """Rank queries by mean block score and keep the top `keep_percent`, at least one.

    Args:
        scores: block scores `[N, B]`.
        keep_percent: 1 to 100.
    """
    means = scores.double().mean(dim=1)
    order = torch.sort(means, descending=True, stable=True).indices.tolist()
    kept = max(1, round(len(order) * keep_percent / 100))
    return Ranking(order=order, scores=means.tolist(), kept=kept)


def accumulate(
    batches: Iterable[tuple[Sequence[int], Tensor]], total: Tensor, blocks: range
) -> None:
    """Add the unit vectors of the hidden states in all batches to `total` `[N, len(blocks), d]`."""
    for rows, hidden_states in batches:
        chosen = hidden_states[:, blocks.start : blocks.stop].float()
        total[list(rows)] += F.normalize(chosen, dim=-1)
