"""Stage results in the status."""

from persona_operator.metrics import OperatorMetrics
from persona_operator.reconcile.stage_results import summarize
from support.fake_cluster import done_message, evaluation_metrics, success_message
from support.gated_persona import served
from support.operator_world import World, persona_document
from support.report import judges


def test_stage_results_in_the_status_are_short_strings() -> None:
    long = {f"m{number}": number for number in range(100)}
    assert len(summarize(long)) == 24
    assert summarize({"text": "x" * 500})["text"] == "x" * 120
    assert summarize({"flag": True, "tiny": 1e-9}) == {"flag": "true", "tiny": "1e-09"}
    assert "variants" not in summarize(evaluation_metrics())


def judged_world(judge: str) -> World:
    """A persona with two judges, one of them untrusted, and a gate that reads one of them."""
    made = World()
    bound = {"name": "j", "metric": "judgeScore", "judge": judge, "min": 50}
    made.add(persona_document(evaluation={"gate": {"thresholds": [bound]}}))
    said = [judge.model_dump(mode="json", by_alias=True, exclude_none=True) for judge in judges()]
    message = done_message("evaluate", **evaluation_metrics(), judges=said)
    made.run(messages=lambda stage: message if stage == "evaluate" else success_message(stage))
    return made


def test_the_status_shows_what_each_judge_says() -> None:
    world = judged_world("large")
    status = world.persona().status
    large, small = status.revisions[0].judge_scores
    assert (large.value, large.low, large.high, large.dense) == ("70.5", "61", "78", "74")
    assert (large.difference, large.difference_low, large.difference_high) == ("-3.5", "-9", "1.5")
    assert (large.count, large.trusted, large.message) == (20, True, None)
    assert (small.value, small.low, small.count, small.trusted) == ("0", None, 0, False)
    assert status.judges == "large 70.5 [61-78] (n=20); small 0.0 (n=0, untrusted)"
    assert served(world) == status.revisions[0].id
    metrics = OperatorMetrics()
    metrics.observe(("stories", "captain"), status, status)
    text = metrics.render().decode()
    labels = 'judge="{}",namespace="stories",persona="captain"'
    assert f"persona_pruner_judge_trusted{{{labels.format('large')}}} 1.0" in text
    assert f"persona_pruner_judge_trusted{{{labels.format('small')}}} 0.0" in text
    named = labels.format("large") + ',variant="served"'
    assert f"persona_pruner_judge_score{{{named}}} 70.5" in text


def test_a_gate_does_not_pass_on_an_untrusted_judge() -> None:
    world = judged_world("small")
    assert served(world) is None
    assert world.condition().reason == "GateFailed"
    assert "the judge is not trusted: it gave a score for 0 of 100" in world.condition().message
