"""The chart's values, without helm: each has a schema and a comment."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from persona_operator.settings import Profile, Retry, Settings

CHART = Path(__file__).parents[2] / "charts" / "persona-pruner"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def test_schema_knows_the_values_and_the_settings():
    assert set(VALUES) | {"enabled", "global"} == set(SCHEMA["properties"])
    for section in ("store", "operator", "image", "metrics"):
        assert set(VALUES[section]) == set(SCHEMA["properties"][section]["properties"]), section

    def aliases(model: Any) -> set[str]:
        return {str(field.alias) for field in model.model_fields.values()}

    assert set(SCHEMA["definitions"]["profile"]["properties"]) == aliases(Profile)
    operator = SCHEMA["properties"]["operator"]["properties"]
    assert set(operator["retry"]["properties"]) == aliases(Retry)
    elsewhere = {
        "jobsImage",
        "vllmImage",
        "imagePullPolicy",
        "imagePullSecrets",
        "securityContext",
        "store",
        "cache",
        "env",
        "profiles",
        "profilesFile",
        "retry",
        "maxParallelStages",
        "maxParallelRollouts",
        "namespaces",
        "metricsPort",
        "healthPort",
        "logLevel",
    }
    assert set(operator["tuning"]["properties"]) == aliases(Settings) - elsewhere


def test_every_value_is_explained():
    """Each top-level value, and each one of the store, has a comment above it."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    for name in VALUES:
        if name in ("image", "operator", "crds", "serviceAccount", "rbac", "metrics"):
            continue  # their fields are
        assert re.search(rf"^#.*\n{name}:", text, re.MULTILINE), name
    for name in VALUES["store"]:
        assert re.search(rf"^  #.*\n  {name}:", text, re.MULTILINE), name
