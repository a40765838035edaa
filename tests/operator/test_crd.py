"""The generated CustomResourceDefinition: conversion, completeness, defaults, drift."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from persona_operator.crd import (
    CHART_CRD_PATH,
    CRD_PATH,
    custom_resource_definition,
    recipe_definition,
    render,
)
from persona_operator.structural_schema import UnsupportedSchemaError, structural_schema

MINIMAL = {
    "persona": {"text": "You are the captain of a whaling ship."},
    "baseModel": {"uri": "hf://org/model"},
}
Schema = dict[str, Any]


def version() -> Schema:
    return custom_resource_definition()["spec"]["versions"][0]


def root() -> Schema:
    return version()["schema"]["openAPIV3Schema"]


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for keyword, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if keyword in schema:
            yield from walk(schema[keyword], path + suffix)


class Inner(BaseModel):
    """An inner object. With more words."""

    size: Annotated[int, Field(gt=2, lt=9)] = 5


class Outer(BaseModel):
    """First line
    and second line with `code`.

    Another paragraph.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    inner: Inner = Inner()
    """An inner object."""
    other: Inner | None = None
    """Something else."""
    name: str
    """A name."""
    labels: dict[str, str] = {}
    """Labels."""
    kind: Literal["Only"] = "Only"
    """One value."""


def test_references_optionals_and_bounds_become_structural():
    assert structural_schema(Outer) == {
        "description": "First line and second line with `code`.\n\nAnother paragraph.",
        "type": "object",
        "required": ["name"],
        "properties": {
            "inner": {
                "description": "An inner object. With more words.",
                "type": "object",
                "properties": {
                    "size": {
                        "description": "Default: `5`.",
                        "type": "integer",
                        "minimum": 3,
                        "maximum": 8,
                    }
                },
            },
            "other": {
                "description": "Something else.",
                "type": "object",
                "properties": {
                    "size": {
                        "description": "Default: `5`.",
                        "type": "integer",
                        "minimum": 3,
                        "maximum": 8,
                    }
                },
            },
            "name": {"description": "A name.", "type": "string"},
            "labels": {
                "description": "Labels.",
                "type": "object",
                "additionalProperties": {"type": "string"},
            },
            "kind": {
                "description": "One value. Default: `Only`.",
                "type": "string",
                "enum": ["Only"],
            },
        },
    }


class UnionField(BaseModel):
    amount: int | str


class FloatBound(BaseModel):
    share: Annotated[float, Field(gt=0)] = 0.5


class AnythingGoes(BaseModel):
    value: Any = None


class PropertyNames(BaseModel):
    table: dict[Annotated[str, Field(pattern="^a")], int]


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (UnionField, ".amount"),
        (FloatBound, ".share"),
        (AnythingGoes, ".value"),
        (PropertyNames, ".table"),
    ],
)
def test_what_no_structural_schema_holds_is_refused(model, where):
    with pytest.raises(UnsupportedSchemaError, match=f"^{where}: "):
        structural_schema(model)


def test_no_floats_in_spec_and_status():
    assert [path for path, node in walk(root()) if node.get("type") == "number"] == []


def test_every_field_is_described():
    bare = [
        path
        for path, node in walk(root())
        if path != ".metadata" and not path.endswith(("[]", ".*")) and not node.get("description")
    ]
    assert bare == []


def test_descriptions_are_sentences_without_broken_lines():
    odd = [
        path
        for path, node in walk(root())
        for text in [node.get("description", "Fine.")]
        if not text.endswith(".") or "\n" in text.replace("\n\n", "") or "``" in text
    ]
    assert odd == []


def test_everything_in_spec_is_bounded():
    """CEL cost estimates need it, and no user can fill etcd."""
    unbounded = []
    for path, node in walk(root()["properties"]["spec"]):
        needs = {"string": ("maxLength", "enum"), "array": ("maxItems",), "integer": ("maximum",)}
        if not any(key in node for key in needs.get(node.get("type", "string"), ("type",))):
            unbounded.append(path)
    assert unbounded == []


def test_every_list_says_how_it_is_merged():
    lists = {
        path: (node.get("x-kubernetes-list-type"), node.get("x-kubernetes-list-map-keys"))
        for path, node in walk(root())
        if node.get("type") == "array"
    }
    assert lists[".status.conditions"] == ("map", ["type"])
    assert lists[".status.stages"] == ("map", ["name"])
    assert lists[".status.revisions"] == ("map", ["id"])
    assert lists[".spec.execution.stages"] == ("map", ["name"])
    assert [path for path, (kind, _) in lists.items() if kind is None] == []


def test_merge_keys_are_required_fields():
    for _, node in walk(root()):
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"]


def test_the_schema_holds_no_defaults_and_the_descriptions_name_them():
    spec = root()["properties"]["spec"]
    assert [path for path, node in walk(spec) if "default" in node] == []
    described = {path: node.get("description", "") for path, node in walk(spec)}
    assert described[".pruning.sparsityPercent"].endswith("removed. Default: `25`.")
    assert described[".teacher.temperature"].endswith('Default: `"1.0"`.')
    assert described[".evaluation.baseline"].endswith("Default: `true`.")
    assert described[".scoring.lastBlock"].count("Default:") == 1


def test_status_accepts_what_another_version_wrote():
    status = root()["properties"]["status"]
    objects = [(path, node) for path, node in walk(status) if "properties" in node]
    assert [path for path, node in walk(status) if "enum" in node] == []
    # Until the operator has seen an object, its status is of no generation.
    assert {path: node["default"] for path, node in walk(status) if "default" in node} == {
        "": {"observedGeneration": -1}
    }
    assert len(objects) > 4
    assert all(node["x-kubernetes-preserve-unknown-fields"] is True for _, node in objects)


def test_names_and_subresources():
    spec = custom_resource_definition()["spec"]
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["plural"] == "personamodels"
    assert spec["names"]["shortNames"] == ["persona", "personas"]
    scale = version()["subresources"]["scale"]
    schema = root()
    for path in scale.values():
        node = schema
        for part in path.strip(".").split("."):
            node = node["properties"][part]
        assert node["type"] in ("integer", "string")


def test_printer_columns_name_fields_that_exist():
    columns = {column["name"]: column for column in version()["additionalPrinterColumns"]}
    assert [name for name, column in columns.items() if not column.get("priority")] == [
        "Phase",
        "Score",
        "Size",
        "Available",
        "Age",
    ]
    assert [name for name, column in columns.items() if column.get("priority")] == [
        "Ready",
        "Sparsity",
        "Base",
        "Revision",
        "Judges",
        "Latency",
        "URL",
    ]
    texts = ("Phase", "Sparsity", "Size", "Score", "URL", "Base", "Revision", "Judges", "Latency")
    for name in texts:
        node = root()
        for part in columns[name]["jsonPath"].strip(".").split("."):
            node = node["properties"][part]
        assert node["type"] == columns[name]["type"], name


def test_every_rule_has_a_message():
    for path, node in walk(root()):
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"], path


def test_chart_copy_is_the_same_definition():
    files = render()
    assert yaml.safe_load(files[CRD_PATH]) == custom_resource_definition()
    chart = files[CHART_CRD_PATH]
    lines = chart.splitlines()
    assert lines[:2] == [
        '{{- include "persona-pruner.values" . -}}',
        "{{- if .Values.crds.install }}",
    ]
    assert lines[-1] == "{{- end }}"
    body = "\n".join(lines[2:-1])
    assert "{{" not in body
    definition = yaml.safe_load(body)
    assert definition["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert definition == custom_resource_definition()


def test_what_a_recipe_may_give_is_required_by_rule_only():
    spec = root()["properties"]["spec"]
    assert spec["required"] == ["persona"]
    assert "required" not in spec["properties"]["baseModel"]
    assert spec["properties"]["baseModel"]["properties"]["credentialsSecretRef"]["required"] == [
        "name"
    ]
    rules = {item["message"]: item["rule"] for item in spec["x-kubernetes-validations"]}
    assert rules["teacher.openAI.model is required"] == (
        "has(self.recipeRef) || !has(self.teacher) || !has(self.teacher.openAI) || "
        "has(self.teacher.openAI.model)"
    )


def test_a_recipe_has_every_field_of_the_spec_but_the_persona():
    (version,) = recipe_definition()["spec"]["versions"]
    recipe = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    fields = set(root()["properties"]["spec"]["properties"])
    assert set(recipe["properties"]) == fields - {"persona", "recipeRef"}
    assert "required" not in recipe
