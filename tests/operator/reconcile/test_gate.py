"""The gate that a new revision must pass before it takes traffic."""

from typing import Any

import pytest

from persona_jobs.api import Gate
from persona_jobs.api.status import RevisionStatus
from persona_operator.reconcile.gate import check
from support.fake_cluster import Raw
from support.gated_persona import deployment, gate, gated_world, messages, served
from support.operator_world import World


@pytest.fixture
def world() -> World:
    return gated_world()


def loss(**bound: Any) -> Raw:
    return {"thresholds": [{"name": "general", "metric": "genericLoss", **bound}]}


def test_a_model_that_meets_the_gate_is_served(world: World) -> None:
    world.run(messages=messages(80))
    revision = world.persona().status.revisions[0]
    assert revision.gate == "Passed"
    assert served(world) == revision.id
    label = deployment(world)["spec"]["template"]["metadata"]["labels"]
    assert label["persona-pruner.io/revision"] == revision.id


def test_a_first_model_that_misses_the_gate_is_not_served(world: World) -> None:
    world.run(messages=messages(40))
    assert world.cluster.find("Deployment") == []
    ready = world.condition()
    assert (ready.status, ready.reason) == ("False", "GateFailed")
    assert "voice: personaScore 40 is below min 60" in ready.message
    assert world.persona().status.url is None
    assert world.condition("Stalled").status == "True"


def test_a_lower_gate_is_met_without_any_job(world: World) -> None:
    world.run(messages=messages(40))
    jobs = len(world.cluster.find("Job"))
    world.edit("captain", evaluation={"gate": gate(min=30)})
    world.run()
    assert len(world.cluster.find("Job")) == jobs
    assert world.condition().status == "True"


def judged(**bound: Any) -> Raw:
    return {"thresholds": [{"name": "j", "metric": "judgeScore", "judge": "large", **bound}]}


def judge_score(**changes: Any) -> Raw:
    return {
        "name": "judgeScore/large", "value": "70", "low": "61", "high": "78", "dense": "74",
        "difference": "-4", "differenceLow": "-9", "differenceHigh": "1", "count": 20,
        "trusted": True, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bound", "result"),
    [
        ({"min": 70}, "Passed"),
        ({"min": 71}, "Failed"),
        ({"min": 61, "wholeInterval": True}, "Passed"),
        ({"min": 62, "wholeInterval": True}, "Failed"),
        ({"max": 78, "wholeInterval": True}, "Passed"),
        ({"max": 77, "wholeInterval": True}, "Failed"),
        ({"maxDecrease": 4}, "Passed"),
        ({"maxDecrease": 3}, "Failed"),
        ({"maxDecrease": 9, "wholeInterval": True}, "Passed"),
        ({"maxDecrease": 8, "wholeInterval": True}, "Failed"),
        ({"minRetentionPercent": 94}, "Passed"),
        ({"minRetentionPercent": 95}, "Failed"),
    ],
)
def test_the_gate_reads_a_judge_by_name(bound: Raw, result: str) -> None:
    other = judge_score(name="judgeScore/small", value="1")
    gate = Gate.model_validate(judged(**bound))
    assert check(gate, revision(other, judge_score())).result == result


@pytest.mark.parametrize(
    "bound", [{"min": 0}, {"max": 100}, {"maxDecrease": 100}, {"minRetentionPercent": 0}]
)
def test_an_untrusted_judge_meets_no_threshold(bound: Raw) -> None:
    untrusted = judge_score(trusted=False, message="it obeys instructions in the answers")
    checked = check(Gate.model_validate(judged(**bound)), revision(untrusted))
    assert checked.result == "Failed"
    assert checked.message == (
        "j: judgeScore/large 70 does not count, because the judge is not trusted: it obeys "
        "instructions in the answers"
    )


@pytest.mark.parametrize(
    "bound",
    [{"min": 0}, {"max": 100}, {"maxDecrease": 100}, {"min": 0, "wholeInterval": True}],
)
def test_a_judge_that_was_not_asked_meets_no_threshold(bound: Raw) -> None:
    checked = check(Gate.model_validate(judged(**bound)), revision(judge_score(name="x")))
    assert checked.result == "Failed"
    assert "not measured" in checked.message


@pytest.mark.parametrize("bound", [{"min": 0}, {"max": 100}, {"maxDecrease": 100}])
def test_a_value_without_an_interval_does_not_hold_in_the_whole_interval(bound: Raw) -> None:
    alone = {"name": "genericLoss", "value": "2.2", "dense": "2.0"}
    gate = Gate.model_validate(loss(**bound, wholeInterval=True))
    assert check(gate, revision(alone)).result == "Failed"
    without = Gate.model_validate(loss(**bound))
    assert check(without, revision(alone)).result == "Passed"


MEASURED = (
    {"name": "personaScore", "value": "60", "dense": "80"},
    {"name": "genericLoss", "value": "2.2", "dense": "2.0"},
    {"name": "checkpointBytes", "value": "1000"},
)


def revision(*metrics: Raw) -> RevisionStatus:
    return RevisionStatus.model_validate({"id": "01234567", "metrics": metrics})


@pytest.mark.parametrize(
    ("gate", "result"),
    [
        (gate(min=60), "Passed"),
        (gate(min="60.5"), "Failed"),
        (gate(max=60), "Passed"),
        (gate(max=59), "Failed"),
        (gate(minRetentionPercent=75), "Passed"),
        (gate(minRetentionPercent=76), "Failed"),
        (loss(maxIncreasePercent=11), "Passed"),
        (loss(maxIncreasePercent=9), "Failed"),
        ({"thresholds": [*gate(min=50)["thresholds"], *loss(max=2)["thresholds"]]}, "Failed"),
        ({"thresholds": [{"name": "x", "metric": "checkpointBytes", "max": 1000}]}, "Passed"),
        # Without the dense model's value nothing can be said about a percentage of it.
        (
            {"thresholds": [{"name": "x", "metric": "checkpointBytes", "maxIncreasePercent": 9}]},
            "Failed",
        ),
    ],
)
def test_the_gate_compares_measurements_with_thresholds(gate: Raw, result: str) -> None:
    assert check(Gate.model_validate(gate), revision(*MEASURED)).result == result


@pytest.mark.parametrize(
    "gate",
    [gate(min=0), gate(max=100), gate(minRetentionPercent=0), loss(maxIncreasePercent=1000)],
)
def test_a_missing_measurement_meets_no_threshold(gate: Raw) -> None:
    checked = check(Gate.model_validate(gate), revision())
    assert checked.result == "Failed"
    assert "not measured" in checked.message


def test_every_model_may_serve_without_a_gate() -> None:
    assert check(None, revision()).result == "NotSet"
