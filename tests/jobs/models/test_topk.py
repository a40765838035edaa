import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.errors import InputError
from persona_jobs.models.kept_channels import MAX_ROUNDING, kept_channels
from persona_jobs.models.topk import hard_top_k, top_k_mask


def test_forward_keeps_the_k_largest():
    scores = torch.tensor([[0.1, 3.0, -1.0, 2.0], [5.0, -2.0, 0.0, 4.0]])
    mask = hard_top_k(scores, 2)
    assert mask.tolist() == [[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]]
    assert mask.dtype == scores.dtype


def test_the_lower_index_wins_a_tie():
    assert top_k_mask(torch.tensor([[1.0, 2.0, 1.0, 1.0]]), 2).tolist() == [
        [True, True, False, False]
    ]
    assert top_k_mask(torch.zeros(3, 100), 30).sum(dim=0).tolist() == [3] * 30 + [0] * 70


def test_infinite_scores_are_ordered():
    scores = torch.tensor([[float("-inf"), 0.0, float("inf")]])
    assert hard_top_k(scores, 2).tolist() == [[0.0, 1.0, 1.0]]


def test_the_gradient_goes_straight_through():
    scores = torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True)
    weights = torch.tensor([[2.0, -3.0, 5.0]])
    mask = hard_top_k(scores, 1)
    ((mask * weights).sum() ** 2).backward()
    # d/dm (m . w)^2 = 2 (m . w) w, with m = (0, 0, 1); every score gets its entry's gradient.
    assert scores.grad.tolist() == [[20.0, -30.0, 50.0]]


@pytest.mark.parametrize("k", [0, 5, -1])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(InputError, match="of 4 channels"):
        hard_top_k(torch.zeros(2, 4), k)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(InputError, match="diverged"):
        hard_top_k(torch.tensor([[0.0, float("nan")]]), 1)


@pytest.mark.parametrize(
    ("intermediate_size", "sparsity", "alignment", "count", "used"),
    [
        (8192, 25, 256, 6144, 256),
        (8192, 50, 256, 4096, 256),
        (8192, 90, 256, 768, 256),
        (1536, 25, 256, 1152, 128),
        (1536, 50, 256, 768, 256),
        (4864, 25, 256, 3584, 256),
        (64, 25, 256, 48, 16),
        (64, 50, 1, 32, 1),
        (1536, 0, 256, 1536, 256),
        (3, 90, 256, 1, 1),
        (96, 50, 12, 48, 12),
    ],
)
def test_the_kept_channels_of_common_sizes(intermediate_size, sparsity, alignment, count, used):
    kept = kept_channels(intermediate_size, sparsity, alignment)
    assert (kept.count, kept.alignment_used, kept.lowered) == (count, used, used < alignment)


@settings(max_examples=300, deadline=None)
@given(
    intermediate_size=st.integers(2, 30_000),
    sparsity=st.integers(1, 99),
    alignment=st.integers(1, 4096),
)
def test_the_kept_channels_are_aligned_and_fewer_than_all(intermediate_size, sparsity, alignment):
    kept = kept_channels(intermediate_size, sparsity, alignment)
    assert 1 <= kept.count < intermediate_size
    assert kept.count % kept.alignment_used == 0
    assert kept.alignment_used <= alignment
    target = intermediate_size * (100 - sparsity) / 100
    assert abs(kept.count - target) <= max(1, MAX_ROUNDING * intermediate_size)


@pytest.mark.parametrize(
    ("intermediate_size", "sparsity", "alignment"),
    [(64, -1, 8), (64, 100, 8), (64, 50, 0), (1, 50, 1)],
)
def test_sizes_out_of_range_are_refused(intermediate_size, sparsity, alignment):
    with pytest.raises(InputError):
        kept_channels(intermediate_size, sparsity, alignment)
