"""The termination message fits into Kubernetes' 4,096 bytes."""

import json

import pytest

from persona_jobs.pipeline.results import StageFailure, TerminationMessage


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


@pytest.mark.parametrize("text", ["", "Killed", "{", "[]", '{"outcome": "Maybe"}'])
def test_anything_else_is_no_message(text):
    assert TerminationMessage.decode(text) is None
