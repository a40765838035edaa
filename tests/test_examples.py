"""Every file in examples/ is a valid PersonaModel, for the command line and for the API server."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from persona_jobs.api import KIND
from persona_jobs.cli import app
from persona_operator.crd import custom_resource_definition

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").rglob("*.yaml"))
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

each_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)


def forbid_unknown_fields(schema):
    """Return the schema as `kubectl apply` uses it: with strict field validation."""
    closed = {**schema}
    if "properties" in schema:
        fields = {name: forbid_unknown_fields(node) for name, node in schema["properties"].items()}
        closed |= {"properties": fields, "additionalProperties": False}
    if "items" in schema:
        closed["items"] = forbid_unknown_fields(schema["items"])
    return closed


def test_there_are_examples():
    assert EXAMPLES


@each_example
def test_persona_validate_accepts_it(file):
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 0, result.output


@each_example
def test_the_definition_accepts_it(file):
    documents = [item for item in yaml.safe_load_all(file.read_text(encoding="utf-8")) if item]
    resources = [item for item in documents if item["kind"] == KIND]
    assert resources
    schema = forbid_unknown_fields(SCHEMA)
    schema["properties"]["metadata"] = {"type": "object"}
    for resource in resources:
        jsonschema.Draft202012Validator(schema).validate(resource)


def test_a_misspelled_field_is_refused():
    document = yaml.safe_load(EXAMPLES[0].read_text(encoding="utf-8"))
    document["spec"]["prunning"] = {}
    errors = jsonschema.Draft202012Validator(forbid_unknown_fields(SCHEMA)).iter_errors(document)
    assert any("prunning" in error.message for error in errors)
