"""The ConfigMap from which the stages read their PersonaModel."""

from typing import Any

from persona_jobs.api import API_VERSION, KIND, parse_resource
from persona_operator.resources.common import Owner
from persona_operator.resources.config_map import build_config_map, stage_manifest
from support.operator_world import persona_document


def test_the_name_fits_for_the_longest_persona_name() -> None:
    owner = Owner("p" * 40, "stories", "uid")
    assert len(build_config_map(owner, {"a": 1})["metadata"]["name"]) <= 253


def test_fields_that_no_stage_reads_change_nothing() -> None:
    def manifest(**spec: Any) -> dict[str, Any]:
        parsed = parse_resource(persona_document(**spec)).spec
        return stage_manifest("captain", "stories", API_VERSION, KIND, parsed)

    base = manifest()
    assert parse_resource(base).spec.persona.text == "You are captain, an old sailor."
    assert manifest(serving={"replicas": 3}) == base
    assert manifest(suspend=True) == base
    assert manifest(execution={"profile": "gpu"}) == base
    threshold = {"name": "x", "metric": "personaScore", "min": 50}
    assert manifest(evaluation={"gate": {"thresholds": [threshold]}}) == base
    learning = {"method": "StraightThrough", "straightThrough": {}}
    split = {**learning, "straightThrough": {"microBatchSize": 4}}
    assert manifest(pruning=split) != manifest(pruning=learning)
