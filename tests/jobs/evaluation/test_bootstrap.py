import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.evaluation.bootstrap import differences, intervals, resampled_means


def test_interval_of_equal_values_is_that_value():
    result = intervals({"a": [40.0] * 5}, samples=200, seed=0)["a"]
    assert (result.mean, result.low, result.high) == (40.0, 40.0, 40.0)


def test_interval_agrees_with_the_normal_approximation():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(400, generator=generator, dtype=torch.float64) * 10 + 50
    result = intervals({"a": values.tolist()}, samples=4000, seed=3)["a"]
    half = 1.96 * float(values.std()) / 400**0.5
    assert result.mean == pytest.approx(float(values.mean()))
    assert result.low == pytest.approx(result.mean - half, abs=0.15 * half)
    assert result.high == pytest.approx(result.mean + half, abs=0.15 * half)


def test_interval_depends_on_the_seed():
    values = {"a": [1.0, 5.0, 2.0, 9.0, 4.0, 4.5, 7.0]}
    first = intervals(values, samples=300, seed=7)
    assert first == intervals(values, samples=300, seed=7)
    assert first != intervals(values, samples=300, seed=8)


def test_resampling_in_parts_has_every_sample(monkeypatch: pytest.MonkeyPatch):
    values = torch.tensor([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]])
    monkeypatch.setattr("persona_jobs.evaluation.bootstrap._MAX_INDICES", 10)
    means = resampled_means(values, samples=50, seed=0)
    assert means.shape == (50, 2)
    # The rows are resampled with the same columns.
    assert torch.equal(means[:, 1], 2 * means[:, 0])


def test_paired_difference_is_exact_where_rows_differ_by_a_constant():
    row = [10.0, 90.0, 40.0, 55.0]
    result = differences(
        {"dense": row, "sliced": [v - 3.0 for v in row]}, "dense", samples=500, seed=0
    )
    assert list(result) == ["sliced"]
    assert result["sliced"].low == pytest.approx(-3.0)
    assert result["sliced"].high == pytest.approx(-3.0)


def test_difference_without_other_rows_is_empty():
    assert differences({"dense": [1.0]}, "dense", samples=100, seed=0) == {}


def test_no_values_is_refused():
    with pytest.raises(ValueError, match="can't be resampled"):
        resampled_means(torch.zeros(1, 0), samples=10, seed=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.integers(0, 2**31 - 1))
def test_interval_lies_within_the_values(values: list[float], seed: int):
    result = intervals({"a": values}, samples=100, seed=seed)["a"]
    slack = 1e-9
    assert min(values) - slack <= result.low <= result.high <= max(values) + slack
