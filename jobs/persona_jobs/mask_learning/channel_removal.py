"""Which input channels of a least-squares layer stay: optimal brain surgeon, then exchanges.

A layer's weights W minimise `tr(W H W') - 2 tr(W B)` with H the (ridged) Gram matrix of its inputs
and B their products with the targets. Without channel c the best weights of all other channels cost
`|w_c|^2 / [H^-1]_cc` more (Hassibi and Stork 1992; for structures: Optimal Brain Compression,
arXiv 2208.11580, and ZipLM, arXiv 2302.04089). Channels are removed in rounds, with an exact update
of the weights and the inverse after each. Then kept and removed channels are exchanged until that
no longer helps (OSSCAR, arXiv 2403.12983).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# An exchange must improve the fit by this share: smaller gains are worth less than their time.
MIN_IMPROVEMENT = 1e-5


@dataclass(frozen=True)
class LeastSquares:
    """The fit of one layer, as sums over tokens.

    Attributes:
        gram: H `[channels, channels]`, float64, positive definite.
        cross: B `[channels, outputs]`, float64.
    """

    gram: Tensor
    cross: Tensor

    def __len__(self) -> int:
        return len(self.gram)

    def inverse(self, kept: Tensor) -> Tensor:
        """Return the inverse of the Gram matrix of the channels `kept` (indices)."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.gram[kept][:, kept]))

    def solve(self, kept: Tensor) -> Tensor:
        """Return the best weights `[outputs, kept]` of the channels `kept` (indices)."""
        factor = torch.linalg.cholesky(self.gram[kept][:, kept])
        return torch.cholesky_solve(self.cross[kept], factor).T

    def fit(self, kept: Tensor) -> float:
        """Return how much of the targets' energy the channels `kept` explain; larger is better."""
        return float((self.solve(kept).T * self.cross[kept]).sum())


@dataclass(frozen=True)
class Removal:
    """The choice of a layer's channels.

    Attributes:
        kept: indices of the kept channels, ascending.
        importance: `[channels]` float64, a permutation of 0, 1, …: first the removed channels in
            the order of their removal, then the kept ones by what their removal would cost.
        exchanged: channels that were removed first and are kept in the end.
    """

    kept: Tensor
    importance: Tensor
    exchanged: int


def remove_channels(problem: LeastSquares, count: int, *, rounds: int) -> Removal:
    """Choose `count` channels to keep.

    Takes about `2 channels^3` operations for the removal, and about as many for every few
    exchanges; memory is three matrices of the size of the Gram matrix.

    Args:
        problem: the layer's fit.
        count: channels to keep, at least 1.
        rounds: how often the costs are updated during the removal.
    """
    order = _remove_in_rounds(problem, count, rounds)
    first = _others(order, len(problem))
    kept = _exchange(problem, first)
    removed = _others(kept, len(problem))
    late = removed[torch.isin(removed, first)]
    ranked = torch.cat([order[torch.isin(order, removed)], late])
    by_cost = kept[_removal_costs(problem, kept).argsort(stable=True)]
    importance = torch.empty(len(problem), dtype=torch.float64, device=kept.device)
    places = torch.arange(len(problem), dtype=torch.float64, device=kept.device)
    importance[torch.cat([ranked, by_cost])] = places
    return Removal(kept, importance, len(late))


def _remove_in_rounds(problem: LeastSquares, count: int, rounds: int) -> Tensor:
    """Return the removed channels, those that are least missed first."""
    excess = len(problem) - count
    alive = torch.arange(len(problem), device=problem.gram.device)
    inverse = problem.inverse(alive)
    weights = inverse @ problem.cross  # [channels, outputs]
    order = [alive[:0]]
    for number in range(rounds):
        leaving = excess * (number + 1) // rounds - excess * number // rounds
        if leaving == 0:
            continue
        costs = weights.square().sum(dim=1) / inverse.diagonal()
        ranked = costs.argsort(stable=True)
        out, rest = ranked[:leaving], ranked[leaving:].sort().values
        order.append(alive[out])
        alive = alive[rest]
        # The inverse of the rest's Gram matrix and its weights, by a block elimination.
        shared = inverse[rest][:, out]
        known = torch.cat([shared.T, weights[out]], dim=1)
        change = shared @ torch.linalg.solve(inverse[out][:, out], known)
        inverse = inverse[rest][:, rest] - change[:, : len(rest)]
        weights = weights[rest] - change[:, len(rest) :]
    return torch.cat(order)


def _exchange(problem: LeastSquares, kept: Tensor) -> Tensor:
    """Return the kept channels after exchanges, until no exchange of one for one helps.

    Several pairs are exchanged at once; where that doesn't help, half as many.
    """
    fit = problem.fit(kept)
    size = len(problem)
    while True:
        removed = _others(kept, len(problem))
        pairs = _best_pairs(_exchange_gains(problem, kept, removed), MIN_IMPROVEMENT * abs(fit))
        size = min(size, len(pairs))
        while size > 0:
            out, back = pairs[:size].T
            candidate = torch.cat([_without(kept, out), removed[back]]).sort().values
            improved = problem.fit(candidate)
            if improved > fit:
                kept, fit = candidate, improved
                break
            size //= 2
        else:
            return kept


def _removal_costs(problem: LeastSquares, kept: Tensor) -> Tensor:
    """Return what removing each one of the channels `kept` costs."""
    inverse = problem.inverse(kept)
    weights = inverse @ problem.cross[kept]
    return weights.square().sum(dim=1) / inverse.diagonal()


def _exchange_gains(problem: LeastSquares, kept: Tensor, removed: Tensor) -> Tensor:
    """Return what every exchange of one for one gains, `[kept, removed]`.

    Adding channel j gains `|t_j|^2 s_j`, with s_j the part of its energy that the kept channels
    don't explain and t_j its new weights. Then removing channel i costs what it costs there.
    """
    inverse = problem.inverse(kept)
    weights = inverse @ problem.cross[kept]
    between = problem.gram[kept][:, removed]
    projected = inverse @ between
    unexplained = problem.gram.diagonal()[removed] - (between * projected).sum(dim=0)
    added = (problem.cross[removed] - between.T @ weights) / unexplained.unsqueeze(1)
    energy = added.square().sum(dim=1)
    changed = (
        weights.square().sum(dim=1, keepdim=True)
        - 2 * projected * (weights @ added.T)
        + projected.square() * energy
    )
    diagonal = inverse.diagonal().unsqueeze(1) + projected.square() / unexplained
    return energy * unexplained - changed / diagonal


def _best_pairs(gains: Tensor, least: float) -> Tensor:
    """Return pairs of rows and columns that gain more than `least`, best first, `[pairs, 2]`.

    No row and no column is in two pairs. Each column is paired with its best row.
    """
    best, rows = gains.max(dim=0) if gains.numel() else (gains.sum(dim=0), gains.sum(dim=0).long())
    taken: set[int] = set()
    pairs = []
    for column in best.argsort(descending=True, stable=True).tolist():
        if float(best[column]) <= least:
            break
        if (row := int(rows[column])) not in taken:
            taken.add(row)
            pairs.append((row, column))
    return torch.tensor(pairs, dtype=torch.long, device=gains.device).view(-1, 2)


def _without(values: Tensor, positions: Tensor) -> Tensor:
    return values[_others(positions, len(values))]


def _others(indices: Tensor, count: int) -> Tensor:
    """Return the numbers below `count` that are not in `indices`, ascending."""
    rest = torch.ones(count, dtype=torch.bool, device=indices.device)
    rest[indices] = False
    return rest.nonzero().squeeze(1)
