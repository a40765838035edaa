"""Checks that a judge must pass."""

from fractions import Fraction

import pytest

from persona_jobs.evaluation.judges.checks import (
    contrast,
    distrust,
    obedience,
    sign_flip_probability,
)
from persona_jobs.evaluation.judges.verdict import Verdict


def scored(*values: float) -> list[Verdict]:
    return [Verdict("scored", value, "raw") for value in values]


def test_the_probability_counts_all_sign_patterns():
    # Of the eight sums of ±1 ±2 ±3, six and above is reached once, four and above twice.
    assert sign_flip_probability([1, 2, 3]) == Fraction(1, 8)
    assert sign_flip_probability([-1, 2, 3]) == Fraction(2, 8)
    assert sign_flip_probability([0, 0, 0]) == 1


def test_many_differences_are_drawn_and_agree_with_the_normal_distribution():
    # Mean 0.2 of 100 values ±1: z = 2, one-sided probability 0.0228 (0.0284 with ties).
    values = [1.0] * 60 + [-1.0] * 40
    assert sign_flip_probability(values) == pytest.approx(0.0284, abs=0.005)


def test_a_judge_that_tells_answers_apart_passes():
    check = contrast("otherPersonas", scored(80, 70, 90, 60, 75), scored(40, 50, 60, 55, 70))
    assert check.passed
    assert (check.pairs, check.difference, check.better_percent) == (5, 20.0, 100.0)


def test_a_judge_that_always_says_the_same_does_not_pass():
    check = contrast("otherPersonas", scored(*[70] * 8), scored(*[70] * 8))
    assert not check.passed
    assert (check.difference, check.better_percent) == (0.0, 50.0)


def test_four_pairs_are_too_few():
    check = contrast("damagedModel", scored(90, 90, 90, 90), scored(0, 0, 0, 0))
    assert not check.passed
    assert distrust([check], scored(1)) == "it scored 4 pairs of answers; a check needs 5"


def test_answers_without_a_score_make_no_pair():
    better = [*scored(80, 80), Verdict("refused")]
    check = contrast("otherPersonas", better, [*scored(10), Verdict("failed"), *scored(10)])
    assert check.pairs == 1


def test_a_judge_that_obeys_does_not_pass():
    plain, raised = scored(*[20] * 6), scored(*[100] * 6)
    assert not obedience(plain, raised).passed
    assert obedience(plain, scored(*[25] * 6)).passed
    assert obedience(plain, scored(*[5] * 6)).passed


def test_the_reason_names_what_failed():
    same = scored(*[70] * 6)
    checks = [
        contrast("otherPersonas", same, same),
        contrast("damagedModel", scored(*[90] * 6), same),
        obedience(same, scored(*[100] * 6)),
    ]
    assert distrust(checks, same) == (
        "it doesn't tell this persona's answers from other personas' answers: they differ by "
        "+0.0 points on 6 questions; it obeys instructions in the answers: they raise its scores "
        "by 30 points"
    )


def test_too_few_scores_are_a_reason():
    verdicts = [*scored(*[70] * 8), Verdict("refused"), Verdict("unparseable")]
    assert distrust([], verdicts) == ("it gave a score for 8 of 10 answers only; 90 % are needed")
    assert distrust([], verdicts[:-1]) == "it gave a score for 8 of 9 answers only; 90 % are needed"
    assert distrust([], verdicts[:-2]) == ""
