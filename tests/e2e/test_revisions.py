"""Changed specs: what runs again, what is served meanwhile, the gate, and rolling back."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.personas import Persona
from support.recorder import Recorder
from support.visitor import Visitor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FROM_MASK_ON = ["mask", "recover", "slice", "evaluate"]


def revision(persona: Persona, identifier: str) -> Any:
    return next(item for item in persona.status["revisions"] if item["id"] == identifier)


@pytest.fixture(scope="module")
def change(captain: Persona, recorder: Recorder) -> Iterator[dict[str, Any]]:
    """Return what happened while the sparsity changed from 25 to 50 percent."""
    before = captain.status
    started = recorder.of_persona(captain.namespace, captain.name)
    visitor = Visitor(captain)
    try:
        captain.change(pruning={"sparsityPercent": 50})
        working = captain.until("InProgress", lambda: _progress(captain), 30, every=0.2)
        captain.until_ready()
    finally:
        answers = visitor.stop()
    after = captain.status
    yield {
        "before": before,
        "after": after,
        "jobs": recorder.of_persona(captain.namespace, captain.name) - started,
        "working": working,
        "answers": answers,
    }


def _progress(persona: Persona) -> dict[str, Any] | None:
    """Return status and kstatus while the mask is learned again."""
    stage = persona.stages().get("mask", {})
    if persona.condition()["status"] != "Unknown" or stage.get("state") == "Succeeded":
        return None
    return {"kstatus": persona.kstatus(), "status": persona.status}


def test_another_sparsity_runs_only_mask_and_later(change: dict[str, Any]):
    assert change["jobs"] == dict.fromkeys(FROM_MASK_ON, 1)


def test_the_old_revision_serves_meanwhile(change: dict[str, Any]):
    old, new = (change[when]["serving"]["revision"] for when in ("before", "after"))
    assert old != new
    assert change["working"]["kstatus"].startswith("InProgress")
    assert change["working"]["status"]["serving"]["revision"] == old
    assert change["answers"].total() > 5
    assert set(change["answers"]) == {"200"}


@pytest.fixture(scope="module")
def refused(captain: Persona, change: dict[str, Any]) -> dict[str, Any]:
    """Return the condition of a third revision, which fails its gate."""
    # No persona score is twice the dense model's.
    threshold = {"name": "voice", "metric": "personaScore", "minRetentionPercent": 200}
    gate = {"thresholds": [threshold]}
    captain.change(pruning={"sparsityPercent": 75}, evaluation={"gate": gate})
    return captain.until_reason("GateFailed", 300)


def test_a_failing_gate_keeps_the_old_revision(
    captain: Persona, change: dict[str, Any], refused: dict[str, Any]
):
    served = change["after"]["serving"]["revision"]
    assert captain.status["serving"]["revision"] == served
    assert captain.kstatus().startswith("Failed")
    new = revision(captain, captain.status["revision"])
    assert new["gate"] == "Failed"
    assert "below minRetentionPercent 200" in refused["message"]
    assert f"Revision {served} keeps serving" in refused["message"]
    old = revision(captain, served)
    for found in (new, old):
        (score,) = [item for item in found["metrics"] if item["name"] == "personaScore"]
        assert score["value"] in refused["message"]
    assert captain.ask("/v1/models").is_success


def test_one_field_rolls_back_and_forward(
    captain: Persona, change: dict[str, Any], refused: dict[str, Any], recorder: Recorder
):
    first, second = (change[when]["serving"]["revision"] for when in ("before", "after"))
    jobs = recorder.of_persona(captain.namespace, captain.name)
    captain.change(serving={"revision": first})
    captain.until_ready(120)
    assert captain.status["serving"]["revision"] == first
    deployment = captain.cluster.get("Deployment", captain.namespace, captain.name)
    assert deployment["metadata"]["labels"]["persona-pruner.io/revision"] == first
    assert captain.ask("/v1/models").is_success
    # Back to the spec of the second revision, without a gate: no stage runs again.
    captain.change(
        serving={"revision": None}, pruning={"sparsityPercent": 50}, evaluation={"gate": None}
    )
    captain.until_ready(120)
    assert captain.status["serving"]["revision"] == second
    assert recorder.of_persona(captain.namespace, captain.name) == jobs
