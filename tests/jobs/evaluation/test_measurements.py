import math

import pytest

from persona_jobs.evaluation.bootstrap import Interval
from persona_jobs.evaluation.losses import HeldOutLoss
from persona_jobs.evaluation.measurements import Measurements, rounded, with_masked


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_values_that_json_can_t_hold_are_left_out(value: float | None):
    assert rounded(value) is None


def test_measurements_leave_out_what_was_not_measured():
    measured = Measurements(
        sizes={"dense": (10, 40), "sliced": (8, 32)},
        scores={"dense": Interval(81.234, 70.0, 90.0)},
        persona={"dense": HeldOutLoss(1.5, 0.0, 100)},
    )
    dense, sliced = measured.of("dense"), measured.of("sliced")
    assert (dense.persona_score, dense.persona_loss, dense.persona_kl) == (81.23, 1.5, 0.0)
    assert dense.generic_loss is None
    assert (sliced.parameters, sliced.checkpoint_bytes, sliced.persona_score) == (8, 32, None)


def test_the_masked_model_shares_the_sliced_one_s_measurements():
    assert with_masked({"dense": 1, "sliced": 2}) == {"dense": 1, "sliced": 2, "masked": 2}
    assert with_masked({"dense": 1}) == {"dense": 1}
