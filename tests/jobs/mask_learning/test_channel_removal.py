"""Removing input channels of a least-squares layer, against plain solves of every candidate."""

import itertools

import pytest
import torch

from persona_jobs.mask_learning.channel_removal import LeastSquares, remove_channels


def problem(inputs, targets, ridge=1e-3):
    gram = inputs.T @ inputs
    return LeastSquares(gram + ridge * torch.diag(gram.diagonal()), inputs.T @ targets)


def random_problem(seed, channels=9, outputs=3, rank=5):
    """A problem whose channels explain each other in part."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(60, rank, generator=generator, dtype=torch.float64)
    mixing = torch.randn(rank, channels, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, channels, generator=generator, dtype=torch.float64)
    inputs = hidden @ mixing + 0.5 * noise
    weights = torch.randn(channels, outputs, generator=generator, dtype=torch.float64)
    return problem(inputs, inputs @ weights)


def loss(least_squares, kept):
    """The minimum of the layer's loss with the channels `kept`, by a plain solve."""
    index = torch.tensor(sorted(kept))
    gram, cross = least_squares.gram[index][:, index], least_squares.cross[index]
    weights = torch.linalg.solve(gram, cross)
    return float((weights * (gram @ weights)).sum() - 2 * (weights * cross).sum())


def one_at_a_time(least_squares, count):
    """Remove the channel without which the loss is lowest, again and again."""
    kept, order = set(range(len(least_squares))), []
    while len(kept) > count:
        out = min(kept, key=lambda channel: loss(least_squares, kept - {channel}))
        kept.remove(out)
        order.append(out)
    return kept, order


@pytest.mark.parametrize("seed", range(5))
def test_one_channel_per_round_is_the_exact_greedy_removal(seed):
    least_squares = random_problem(seed)
    removal = remove_channels(least_squares, 5, rounds=4)
    kept, order = one_at_a_time(least_squares, 5)
    assert loss(least_squares, removal.kept.tolist()) <= loss(least_squares, kept) + 1e-9
    if not removal.exchanged:
        assert set(removal.kept.tolist()) == kept
        assert removal.importance.argsort()[:4].tolist() == order


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rounds", [1, 3])
def test_no_exchange_of_one_for_one_helps_in_the_end(seed, rounds):
    least_squares = random_problem(seed)
    kept = set(remove_channels(least_squares, 4, rounds=rounds).kept.tolist())
    found = loss(least_squares, kept)
    for out, back in itertools.product(kept, set(range(9)) - kept):
        assert loss(least_squares, kept - {out} | {back}) > found - 2e-5 * abs(found)
    losses = sorted(loss(least_squares, choice) for choice in itertools.combinations(range(9), 4))
    assert found <= losses[len(losses) // 10], "not among the best tenth of all choices"


def test_exchanges_correct_a_removal_in_one_round():
    """Without updates both copies of a signal look dispensable, and both are removed."""
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    inputs = torch.cat([3 * signals[:, :2], 3 * signals[:, :2], signals[:, 2:]], dim=1)
    least_squares = problem(inputs, signals @ torch.eye(4, dtype=torch.float64), ridge=1e-4)
    removal = remove_channels(least_squares, 4, rounds=1)
    kept = set(removal.kept.tolist())
    assert {channel % 2 for channel in kept if channel < 4} == {0, 1}, "a signal was lost"
    assert {4, 5} <= kept
    assert removal.exchanged > 0


def test_the_importance_orders_all_channels():
    removal = remove_channels(random_problem(3), 5, rounds=2)
    assert removal.importance.sort().values.tolist() == list(range(9))
    assert removal.importance.topk(5).indices.sort().values.tolist() == removal.kept.tolist()


def test_nothing_is_removed_where_all_channels_are_kept():
    removal = remove_channels(random_problem(1), 9, rounds=2)
    assert removal.kept.tolist() == list(range(9))
