"""Verdicts in a judge's words."""

import pytest

from persona_jobs.endpoints import ChatAnswer
from persona_jobs.evaluation.judges.verdict import Verdict, read_verdict


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("70", 70),
        (" 70.\n", 70),
        ("0", 0),
        ("100", 100),
        ("87.5", 87.5),
        ("85/100", 85),
        ("**85**", 85),
        ("Score: 85", 85),
        ("<think>He says arr, so 10 is too low.</think>\n85", 85),
    ],
)
def test_a_score_alone_is_read(text: str, score: float):
    assert read_verdict(ChatAnswer(text, "complete")) == Verdict("scored", score, "raw")


@pytest.mark.parametrize(
    "text",
    [
        "I would give this 90 points.",
        "The answer is 100% in character",
        "101",
        "100.5",
        "-5",
        "8 5",
        "70 80",
        "70\n100",
        "٧٠",
        "1e2",
        "",
        "<think>It must be 100",
        "nan",
    ],
)
def test_anything_else_is_no_score(text: str):
    assert read_verdict(ChatAnswer(text, "complete")) == Verdict("unparseable")


def test_a_score_that_may_go_on_is_no_score():
    assert read_verdict(ChatAnswer("10", "truncated")) == Verdict("unparseable")


@pytest.mark.parametrize("answer", [ChatAnswer("REFUSAL", "complete"), ChatAnswer("", "refused")])
def test_refusals(answer: ChatAnswer):
    assert read_verdict(answer) == Verdict("refused")


@pytest.mark.parametrize("ending", ["failed", "tooLong"])
def test_no_answer_is_a_failure(ending):
    assert read_verdict(ChatAnswer("", ending)) == Verdict("failed")
