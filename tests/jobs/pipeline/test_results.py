"""The termination message fits into Kubernetes' 4,096 bytes."""

import json

import pytest

from persona_jobs.pipeline.judge_results import JudgeCheck, JudgeMetrics, JudgeScore
from persona_jobs.pipeline.results import (
    EvaluationMetrics,
    StageFailure,
    TerminationMessage,
    VariantMetrics,
)
from support.report import metrics


@pytest.mark.parametrize("size", [10, 3000, 100_000])
@pytest.mark.parametrize("character", ["x", "é", "\x00", '"'])
def test_any_message_fits_and_reads_back(size, character):
    message = TerminationMessage(
        stage="mask",
        key="k" * 64,
        outcome="Failed",
        failure=StageFailure(error_class="InputError", message=character * size, hint="mend it"),
    )
    encoded = message.encode()
    assert len(encoded) <= 4096
    decoded = TerminationMessage.decode(encoded.decode())
    assert decoded.outcome == "Failed"
    assert decoded.failure.error_class == "InputError"
    assert decoded.failure.message[:8] == (character * size)[:8]


def test_large_metrics_are_dropped_before_the_failure():
    message = TerminationMessage(
        stage="evaluate", outcome="Done", metrics={"variants": {"x": "y" * 9000}, "queries": 7}
    )
    decoded = json.loads(message.encode())
    assert decoded["metrics"] == {"queries": 7}


def test_small_metrics_are_kept_whole():
    metrics = {"variants": {"dense": {"personaScore": 81.5}}, "queries": 7}
    message = TerminationMessage(stage="evaluate", outcome="Done", metrics=metrics)
    assert TerminationMessage.decode(message.encode().decode()).metrics == metrics


def test_an_evaluation_with_four_judges_keeps_what_a_gate_needs():
    score = JudgeScore(
        score=71.25, low=61.25, high=81.25, score_with_zeros=70.25, scored=48, refused=1,
        unparseable=1, weighted=48,
    )  # fmt: skip
    check = JudgeCheck(name="otherPersonas", pairs=50, difference=0.5, passed=False)
    judges = [
        JudgeMetrics(
            name=f"judge-{n}", model="m" * 100, trusted=False, reason="x" * 400, mode="weighted",
            checks=[check] * 3, variants={"dense": score, "recovered": score},
        )
        for n in range(4)
    ]  # fmt: skip
    evaluation = metrics(judges=judges)
    results = evaluation.model_dump(mode="json", by_alias=True, exclude_none=True)
    message = TerminationMessage(stage="evaluate", key="k" * 64, outcome="Done", metrics=results)
    encoded = message.encode()
    assert len(encoded) <= 4096
    decoded = TerminationMessage.decode(encoded.decode())
    read = EvaluationMetrics.model_validate(decoded.metrics)
    assert list(read.variants) == ["dense", "recovered"]
    assert read.variants["recovered"] == evaluation.variants["recovered"]
    assert [judge.name for judge in read.judges] == [judge.name for judge in judges]
    assert all(judge.variants["recovered"] == score for judge in read.judges)
    assert all(judge.reason.startswith("x" * 100) for judge in read.judges)


def test_an_evaluation_of_all_variants_is_kept_whole():
    """The gate reads it from the message: the operator may have no access to the store."""
    sizes = {"parameters": 134_515_008, "checkpoint_bytes": 229_247_408}
    names = [name for name in VariantMetrics.model_fields if name not in sizes]
    variant = VariantMetrics(**sizes, **dict.fromkeys(names, 1234.5678))
    evaluation = EvaluationMetrics(
        served="recovered",
        chance_persona_score=9.09,
        queries=1000,
        variants=dict.fromkeys(("dense", "masked", "sliced", "recovered", "baseline"), variant),
    )
    message = TerminationMessage(
        stage="evaluate",
        key="k" * 64,
        outcome="Done",
        seconds=12345.6,
        metrics=evaluation.model_dump(mode="json", by_alias=True, exclude_none=True),
    )
    decoded = TerminationMessage.decode(message.encode().decode())
    assert EvaluationMetrics.model_validate(decoded.metrics) == evaluation


@pytest.mark.parametrize("text", ["", "Killed", "{", "[]", '{"outcome": "Maybe"}'])
def test_anything_else_is_no_message(text):
    assert TerminationMessage.decode(text) is None
