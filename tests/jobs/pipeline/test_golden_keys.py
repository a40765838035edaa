"""Content keys of one resolved spec, which must never change.

Stores are full of results under these keys. If a key changes, every finished stage is computed
again, on every machine, although nothing that its result depends on has changed. A new field must
therefore enter the keys with its neutral value, and only a stage that computes something else from
the same values may raise its version: then, and only then, replace the keys of this stage and of
those that read it.
"""

import json
from pathlib import Path

from persona_jobs.api import PersonaModelSpec
from persona_jobs.pipeline.graph import keys
from support.stage_names import DEFAULT_STAGES

GOLDEN = json.loads((Path(__file__).parent / "golden_keys.json").read_text("utf-8"))


def test_the_keys_of_a_resolved_spec_never_change() -> None:
    assert keys(PersonaModelSpec.model_validate(GOLDEN["spec"])) == GOLDEN["keys"]


def test_every_stage_has_a_golden_key() -> None:
    assert tuple(GOLDEN["keys"]) == DEFAULT_STAGES
