"""Stage results in the status."""

from persona_operator.reconcile.stage_results import summarize
from support.fake_cluster import evaluation_metrics


def test_stage_results_in_the_status_are_short_strings() -> None:
    long = {f"m{number}": number for number in range(100)}
    assert len(summarize(long)) == 24
    assert summarize({"text": "x" * 500})["text"] == "x" * 120
    assert summarize({"flag": True, "tiny": 1e-9}) == {"flag": "true", "tiny": "1e-09"}
    assert "variants" not in summarize(evaluation_metrics())
