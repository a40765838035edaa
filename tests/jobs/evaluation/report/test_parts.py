import math

import pytest
import yaml

from persona_jobs.dataset import ScoredQuery
from persona_jobs.evaluation.bootstrap import Interval
from persona_jobs.evaluation.losses import HeldOutLoss
from persona_jobs.evaluation.measurements import Measurements
from persona_jobs.evaluation.report.parts import (
    SampleLine,
    as_yaml,
    mean_losses,
    ranking,
    rounded,
    shown_samples,
)


def _query(rank: int, kept: bool) -> ScoredQuery:
    return ScoredQuery(query=f"q{rank}", answer="a", score=1 / rank, rank=rank, kept=kept)


def test_ranking_has_both_ends():
    result = ranking([_query(rank, rank <= 8) for rank in reversed(range(1, 21))])
    assert result is not None
    assert result.kept == 8
    assert [row.rank for row in result.top] == list(range(1, 9))
    assert [row.rank for row in result.bottom] == list(range(13, 21))
    assert list(result.scores) == sorted(result.scores, reverse=True)


def test_ranking_of_few_queries_shows_none_twice():
    assert ranking([]) is None
    three = ranking([_query(1, True), _query(2, False), _query(3, False)])
    assert three is not None
    shown = [row.rank for row in (*three.top, *three.bottom)]
    assert len(shown) == len(set(shown))


def test_settings_survive_yaml():
    settings = {"b": {"text": "line one\nline <two>: 'x'\n", "n": 3}, "a": ["ä", True, None, "1.0"]}
    text = as_yaml(settings)
    assert yaml.safe_load(text) == settings
    assert text.index("b:") < text.index("a:")
    assert "text: |" in text


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


def _line(loss: float) -> SampleLine:
    return SampleLine(
        query="q",
        source="s",
        answers={"dense": "d", "sliced": ""},
        posteriors={"dense": 0.9, "sliced": 0.1},
        losses={"dense": loss, "sliced": None},
        finished={"dense": True, "sliced": False},
    )


def test_mean_losses_leave_empty_answers_out():
    assert mean_losses([_line(1.0), _line(2.0)]) == {"dense": 1.5}
    assert mean_losses([]) == {}
    spoken = _line(1.0).model_copy(update={"losses": {"dense": 1.0, "sliced": 3.0}})
    assert mean_losses([spoken, _line(2.0)]) == {"dense": 1.5, "sliced": 3.0, "masked": 3.0}


def test_samples_keep_text_probability_and_ending():
    (sample,) = shown_samples([_line(1.0)])
    assert sample.answers["dense"].posterior == 0.9
    assert sample.answers["sliced"].finished is False
