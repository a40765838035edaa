import torch

from persona_jobs.mask_learning.initial_scores import random_scores, scores_from_rank


def test_scores_from_rank_spread_over_minus_one_to_one():
    scores = scores_from_rank(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 9.0]]))
    assert scores.tolist() == [[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]]


def test_random_scores_depend_on_the_seed():
    assert torch.equal(random_scores((2, 8), 3), random_scores((2, 8), 3))
    assert not torch.equal(random_scores((2, 8), 3), random_scores((2, 8), 4))
