"""Prometheus metrics."""

from pathlib import Path

from persona_jobs.api.status import PersonaModelStatus, RevisionStatus
from persona_operator.metrics import OperatorMetrics
from support.operator_world import World, persona_document


def test_every_metric_is_documented() -> None:
    world = World()
    world.add(persona_document())
    metrics = OperatorMetrics(lambda: {"Job": 1.0})
    old = world.persona().status
    world.run()
    metrics.observe(("stories", "captain"), old, world.persona().status)
    metrics.request("GET", "jobs", 200)
    names = {
        line.split()[2] for line in metrics.render().decode().splitlines()
        if line.startswith("# TYPE") and not line.split()[2].endswith("_created")
    }  # fmt: skip
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert names
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_ended_attempts_are_counted_once() -> None:
    world = World()
    world.add(persona_document())
    metrics = OperatorMetrics()
    world.step()
    before = world.persona().status
    world.cluster.make_pod(world.job("reference"))
    world.cluster.advance(30)
    world.cluster.finish(world.job("reference"))
    world.step()
    after = world.persona().status
    metrics.observe(("stories", "captain"), before, after)
    metrics.observe(("stories", "captain"), after, after)
    text = metrics.render().decode()
    labels = '{outcome="succeeded",stage="reference"}'
    assert f"persona_pruner_stage_attempts_total{labels} 1.0" in text
    assert f"persona_pruner_stage_duration_seconds_sum{labels} 30.0" in text


def test_the_stalled_persona_is_named_with_its_reason() -> None:
    world = World()
    world.add(persona_document())
    world.step()
    world.cluster.make_pod(world.job("reference"))
    world.cluster.finish(world.job("reference"), 2)
    world.run()
    status = world.persona().status
    metrics = OperatorMetrics()
    metrics.observe(("stories", "captain"), status, status)
    text = metrics.render().decode()
    reason = next(item.reason for item in status.conditions if item.type == "Stalled")
    labels = 'namespace="stories",persona="captain",reason="{}",status="{}",type="{}"'
    stalled = labels.format(reason, "True", "Stalled")
    assert f"persona_pruner_condition{{{stalled}}} 1.0" in text
    (failed,) = [line for line in text.splitlines() if 'state="Failed"' in line]
    assert failed.startswith("persona_pruner_unfinished_stages{reason=")
    assert 'stage="reference"' in failed
    metrics.forget(("stories", "captain"))
    assert "captain" not in metrics.render().decode()


def test_a_gate_is_reported_once_there_is_one() -> None:
    metrics = OperatorMetrics()
    for name, gate in [("a", "Passed"), ("b", "Failed"), ("c", "NotSet")]:
        status = PersonaModelStatus(revisions=[RevisionStatus(id="1", gate=gate)])
        metrics.observe(("stories", name), status, status)
    lines = [line for line in metrics.render().decode().splitlines() if "gate_passed{" in line]
    assert lines == [
        'persona_pruner_gate_passed{namespace="stories",persona="a"} 1.0',
        'persona_pruner_gate_passed{namespace="stories",persona="b"} 0.0',
    ]


def test_the_process_and_the_queue_are_measured() -> None:
    text = OperatorMetrics(queued=lambda: 7).render().decode()
    assert "persona_pruner_reconcile_queue_length 7.0" in text
    (line,) = [t for t in text.splitlines() if t.startswith("process_resident_memory_bytes ")]
    assert float(line.split()[1]) > 1e6
