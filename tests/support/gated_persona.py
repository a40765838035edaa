"""A PersonaModel with a gate: thresholds, evaluations with a given score, what is served."""

from typing import Any

from .fake_cluster import Raw, evaluation_message, success_message
from .operator_world import NAMESPACE, World, persona_document


def gate(**bound: Any) -> Raw:
    return {"thresholds": [{"name": "voice", "metric": "personaScore", **bound}]}


GATE = {"gate": gate(min=60)}


def gated_world() -> World:
    made = World()
    made.add(persona_document(evaluation=GATE))
    return made


def messages(score: float) -> Any:
    return lambda stage: (
        evaluation_message(score=score) if stage == "evaluate" else success_message(stage)
    )


def deployment(world: World) -> Raw:
    found = world.cluster.get("Deployment", NAMESPACE, "captain")
    assert found is not None
    return found


def served(world: World) -> str | None:
    serving = world.persona().status.serving
    return serving.revision if serving else None
