"""Prometheus metrics."""

from pathlib import Path

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
