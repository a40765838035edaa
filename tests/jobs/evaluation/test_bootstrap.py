import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.evaluation import bootstrap
from persona_jobs.evaluation.bootstrap import (
    Interval,
    difference_interval,
    differences,
    intervals,
    mean_interval,
    ratio_interval,
    retentions,
    t_quantile,
)

random = np.random.default_rng(0)


def held(found: list[Interval], truth: float) -> float:
    """Return the share of intervals that hold the truth."""
    ends = [(i.low, i.high) for i in found if i.low is not None and i.high is not None]
    return sum(low <= truth <= high for low, high in ends) / len(ends)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_than_five_questions_have_no_interval(count: int):
    row = [40.0] * count
    assert intervals({"a": row}, samples=100, seed=0) == {"a": Interval(40.0, None, None)}
    assert differences({"a": row, "b": row}, "a") == {"b": Interval(0.0, None, None)}
    assert retentions({"a": row, "b": row}, "a") == {"b": Interval(100.0, None, None)}


def test_equal_scores_leave_room_for_a_rare_other_one():
    result = mean_interval(np.full(8, 100.0), samples=50_000, seed=0)
    assert (result.mean, result.high) == (100.0, 100.0)
    # The unseen answer at 0 has the weight of a quarter of an observation beside the others.
    drawn = np.random.default_rng(1).beta(0.25, 8.25, 200_000)
    assert result.low == pytest.approx(100 * (1 - np.quantile(drawn, 0.975)), abs=1)


def test_interval_of_many_questions_is_the_normal_approximation():
    values = random.normal(50, 10, 400)
    result = mean_interval(values, samples=4000, seed=3)
    half = 1.96 * values.std() / 400**0.5
    assert result.mean == pytest.approx(values.mean())
    assert result.low == pytest.approx(result.mean - half, abs=0.15 * half)
    assert result.high == pytest.approx(result.mean + half, abs=0.15 * half)


def test_yes_or_no_questions_have_the_interval_of_a_beta_distribution():
    # 3 of 10 with a quarter of an observation at each end: Beta(3.25, 7.25).
    drawn = np.random.default_rng(1).beta(3.25, 7.25, 200_000)
    expected = np.quantile(100 * drawn, [0.025, 0.975])
    result = mean_interval(np.array([100.0] * 3 + [0.0] * 7), samples=50_000, seed=0)
    assert (result.low, result.high) == pytest.approx(tuple(expected), abs=0.6)


def test_interval_depends_on_the_seed_and_not_on_the_order():
    values = [1.0, 5.0, 2.0, 9.0, 4.0, 4.5, 7.0]
    first = intervals({"a": values}, samples=300, seed=7)
    assert first == intervals({"a": values[::-1]}, samples=300, seed=7)
    assert first != intervals({"a": values}, samples=300, seed=8)


def test_drawing_in_parts_has_every_sample(monkeypatch: pytest.MonkeyPatch):
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    whole = mean_interval(values, samples=200, seed=0)
    monkeypatch.setattr(bootstrap, "_MAX_WEIGHTS", 21)
    assert mean_interval(values, samples=200, seed=0) == whole


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (4, 2.7764), (7, 2.3646), (19, 2.0930), (999, 1.9623)]
)
def test_quantiles_of_student_s_t(degrees: int, expected: float):
    assert t_quantile(degrees) == pytest.approx(expected, abs=2e-3 if degrees == 1 else 2e-4)


def test_paired_difference_is_exact_where_rows_differ_by_a_constant():
    row = [10.0, 90.0, 40.0, 55.0, 70.0]
    result = differences({"dense": row, "sliced": [v - 3.0 for v in row]}, "dense")
    assert result == {"sliced": Interval(-3.0, -3.0, -3.0)}


def test_difference_of_a_symmetric_sample_is_student_s_t():
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) + 5
    result = difference_interval(values)
    half = 2.7764 * math.sqrt(2.5) / math.sqrt(5)
    assert (result.low, result.high) == pytest.approx((5 - half, 5 + half), abs=1e-3)


def test_retention_solves_fieller_s_equation():
    dense = np.array([20.0, 60.0, 40.0, 50.0, 30.0, 45.0])
    sliced = np.array([15.0, 40.0, 35.0, 30.0, 25.0, 20.0])
    result = ratio_interval(sliced, dense)
    assert result is not None
    assert result.mean == pytest.approx(100 * sliced.mean() / dense.mean())
    for end in (result.low, result.high):
        assert end is not None
        rest = sliced - end / 100 * dense
        statistic = rest.mean() / (rest.std(ddof=1) / math.sqrt(len(rest)))
        assert abs(statistic) == pytest.approx(t_quantile(5), abs=1e-6)


def test_retention_against_a_model_near_zero_has_no_interval():
    dense, sliced = np.array([0.0, 0.0, 0.0, 0.0, 50.0]), np.array([0.0, 1.0, 0.0, 2.0, 30.0])
    assert ratio_interval(sliced, dense) == Interval(pytest.approx(66.0), None, None)
    assert ratio_interval(sliced, np.zeros(5)) is None


def test_difference_without_other_rows_is_empty():
    assert differences({"dense": [1.0]}, "dense") == {}


def test_no_values_and_unequal_rows_are_refused():
    with pytest.raises(ValueError, match="no values"):
        intervals({"a": []}, samples=10, seed=0)
    with pytest.raises(ValueError, match="can't be paired"):
        ratio_interval(np.ones(5), np.ones(6))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=5, max_size=20), st.integers(0, 2**31 - 1))
def test_interval_holds_the_mean_and_stays_on_the_scale(values: list[float], seed: int):
    result = intervals({"a": values}, samples=100, seed=seed)["a"]
    assert result.low is not None and result.high is not None
    assert -1e-9 <= result.low <= result.mean <= result.high <= 100 + 1e-9


def test_eight_questions_of_which_one_in_five_fails_are_covered():
    """The percentile bootstrap and Student's t hold this mean about 82 % of the time."""
    shape = (600, 8)
    rows = np.where(random.random(shape) < 0.8, 85 + 15 * random.random(shape),
                    40 * random.random(shape))  # fmt: skip
    found = [mean_interval(row, samples=400, seed=n) for n, row in enumerate(rows)]
    assert 0.92 <= held(found, 0.8 * 92.5 + 0.2 * 20) <= 0.99
