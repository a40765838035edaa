"""Every file in examples/ is valid, for the command line and for the API server."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from persona_jobs.cli import app

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))

each_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)


def documents(file):
    return [item for item in yaml.safe_load_all(file.read_text(encoding="utf-8")) if item]


def closed(schema):
    """Return a schema that refuses unknown fields, as `kubectl apply` does."""
    result = {**schema}
    if "properties" in schema:
        fields = {name: closed(node) for name, node in schema["properties"].items()}
        result |= {"properties": fields, "additionalProperties": False}
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result


def validator(resource):
    """Return the validator of a resource from the checked-in definition of its kind, or None."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
        if definition["names"]["kind"] == resource["kind"]:
            schema = closed(definition["versions"][0]["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            return jsonschema.Draft202012Validator(schema)
    return None


def test_there_are_examples():
    assert EXAMPLES


@each_example
def test_persona_validate_accepts_it(file):
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 0, result.output


@each_example
def test_the_definitions_accept_it(file):
    checked = [(validator(item), item) for item in documents(file)]
    assert any(check for check, _ in checked)
    for check, resource in checked:
        if check:
            check.validate(resource)


@pytest.mark.parametrize("card", sorted((ROOT / "examples").glob("*.json")), ids=lambda c: c.name)
def test_a_card_is_imported_whole_but_for_its_lorebook_and_greeting(card, tmp_path):
    made = tmp_path / "persona.yaml"
    result = CliRunner().invoke(app, ["import", str(card), "-o", str(made)])
    assert result.exit_code == 0, result.output
    assert result.output.count("not used") == 2
    result = CliRunner().invoke(app, ["validate", str(made)])
    assert result.exit_code == 0, result.output
    [resource] = documents(made)
    check = validator(resource)
    assert check is not None
    check.validate(resource)


def test_a_misspelled_field_is_refused():
    (resource,) = documents(ROOT / "examples" / "persona.yaml")
    resource["spec"]["prunning"] = {}
    errors = validator(resource).iter_errors(resource)
    assert any("prunning" in error.message for error in errors)
