"""Mean scores from token probabilities."""

import math

import pytest

from persona_jobs.endpoints import TokenChoice
from persona_jobs.evaluation.judges.score_tokens import mean_score


def tokens(*places: dict[str, float]) -> list[TokenChoice]:
    """Tokens of which the first in each place is written."""
    return [
        TokenChoice(next(iter(place)), {text: math.log(p) for text, p in place.items()})
        for place in places
    ]


def test_scores_of_one_token_are_weighted_by_their_probabilities():
    assert mean_score(tokens({"70": 0.5, "90": 0.3, "100": 0.2}), "70") == pytest.approx(82)


def test_what_is_no_score_is_left_out():
    found = tokens({"70": 0.5, "The": 0.25, "80": 0.125, "REF": 0.125})
    assert mean_score(found, "70") == pytest.approx((70 * 0.5 + 80 * 0.125) / 0.625)


def test_tokens_with_spaces_are_the_same_score():
    found = tokens({" 70": 0.4, "70": 0.1, " 80": 0.5}, {"\n": 1.0})
    assert mean_score(found, "70") == pytest.approx(75)


def test_a_hundred_of_three_tokens():
    found = tokens({"1": 0.6, "9": 0.4}, {"0": 1.0}, {"0": 0.75, "<end>": 0.25}, {"<end>": 1.0})
    # 100 or 10 after the written digits; the other first digit is followed by the same 0: 90.
    assert mean_score(found, "100") == pytest.approx(0.6 * (0.75 * 100 + 0.25 * 10) + 0.4 * 90)


def test_a_hundred_of_two_tokens():
    found = tokens({"10": 0.5, "85": 0.5}, {"0": 1.0}, {"<end>": 1.0})
    assert mean_score(found, "100") == pytest.approx(92.5)


def test_two_digits_by_token():
    found = tokens({"7": 0.5, "8": 0.5}, {"0": 0.5, "5": 0.5}, {"<end>": 1.0})
    assert mean_score(found, "70") == pytest.approx((70 + 75 + 80 + 85) / 4)


def test_an_unwritten_one_may_be_a_hundred_and_is_not_guessed():
    unsure = tokens({"9": 0.6, "1": 0.4}, {"0": 1.0}, {"<end>": 1.0})
    assert mean_score(unsure, "90") is None
    nearly = tokens({"9": 0.95, "1": 0.05}, {"0": 1.0}, {"<end>": 1.0})
    assert mean_score(nearly, "90") == pytest.approx(90)


def test_an_unwritten_digit_beside_a_single_one_is_not_guessed():
    assert mean_score(tokens({"5": 0.5, "8": 0.5}, {"<end>": 1.0}), "5") is None


def test_thoughts_before_the_score_do_not_count():
    found = tokens({"<think>": 1.0}, {"100": 1.0}, {"</think>": 1.0}, {"20": 0.5, "40": 0.5})
    assert mean_score(found, "20") == pytest.approx(30)


def test_probabilities_beyond_one_are_not_weighed():
    assert mean_score(tokens({"70": 0.9, "100": 0.9}), "70") is None
    impossible = [TokenChoice("70", {"70": 3.0, "100": -0.1})]
    assert mean_score(impossible, "70") is None
    assert mean_score([TokenChoice("70", {"70": math.nan, "100": -0.1})], "70") is None


def test_tokens_of_another_text_are_not_weighed():
    assert mean_score(tokens({"100": 0.9, "90": 0.1}), "70") is None


def test_one_alternative_alone_is_no_weighting():
    assert mean_score(tokens({"70": 1.0}), "70") is None
    assert mean_score([], "70") is None


def test_no_probabilities_lead_beyond_the_scale():
    found = tokens({"99": 0.5, "999": 0.3, "100": 0.2}, {"<end>": 1.0})
    assert mean_score(found, "99") is None  # too much lies on what is no score
    few = tokens({"99": 0.75, "999": 0.05, "100": 0.2}, {"<end>": 1.0})
    assert mean_score(few, "99") == pytest.approx((99 * 0.75 + 100 * 0.2) / 0.95)
