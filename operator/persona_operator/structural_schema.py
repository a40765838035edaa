"""Convert pydantic models into Kubernetes structural schemas (apiextensions.k8s.io/v1)."""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

# Keywords of a Kubernetes structural schema that are taken over as they are.
_COPIED = (
    "type",
    "enum",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-int-or-string",
)
_HANDLED = (
    "$ref",
    "$defs",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "default",
    "description",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "items",
    "properties",
    "title",
)


class UnsupportedSchemaError(ValueError):
    """A model has a JSON schema that no Kubernetes structural schema can hold."""


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the structural schema of `model` (apiextensions.k8s.io/v1 `JSONSchemaProps`).

    References are inlined and optional fields lose their `null` branch. Defaults are not part of
    the schema: they are applied when the spec is resolved, so that an applied object stays as it
    was written and may inherit from a recipe. The descriptions name them.

    Raises:
        UnsupportedSchemaError: names the field whose type can't be expressed.
    """
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}), "")


def _convert(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    schema = _resolve(schema, definitions, path)
    unknown = sorted(set(schema) - set(_COPIED) - set(_HANDLED))
    if unknown:
        raise UnsupportedSchemaError(f"{path or 'root'}: {', '.join(unknown)} is not supported")
    result: Schema = {}
    if "description" in schema:
        result["description"] = joined_lines(schema["description"])
    result |= {keyword: schema[keyword] for keyword in _COPIED if keyword in schema}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if "exclusiveMinimum" in schema or "exclusiveMaximum" in schema:
        result |= _inclusive_bounds(schema, path)
    if "type" not in result and "x-kubernetes-int-or-string" not in result:
        raise UnsupportedSchemaError(f"{path or 'root'}: has no single type")
    if "properties" in schema:
        result["properties"] = {
            name: _convert(value, definitions, f"{path}.{name}")
            for name, value in schema["properties"].items()
        }
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(
            schema["additionalProperties"], definitions, f"{path}.*"
        )
    if "items" in schema:
        result["items"] = _convert(schema["items"], definitions, f"{path}[]")
        result.setdefault("x-kubernetes-list-type", "atomic")
    default = _default_text(schema)
    if default and "Default:" not in result.get("description", ""):
        result["description"] = f"{result.get('description', '')} Default: {default}.".strip()
    return result


def _default_text(schema: Schema) -> str:
    """Return a scalar default as YAML; lists and objects are empty by default."""
    default = schema.get("default")
    if default is None or isinstance(default, list | dict):
        return ""
    if isinstance(default, bool):
        return "`true`" if default else "`false`"
    text = str(default)
    is_quoted = isinstance(default, str) and text.replace(".", "", 1).isdigit()
    return f'`"{text}"`' if is_quoted else f"`{text}`"


def _resolve(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Return `schema` with `$ref`, one-element `allOf` and optional `anyOf` merged into it."""
    while True:
        if "$ref" in schema:
            inner = definitions[schema["$ref"].removeprefix("#/$defs/")]
            outer = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        elif "anyOf" in schema or "allOf" in schema:
            keyword = "anyOf" if "anyOf" in schema else "allOf"
            branches = [branch for branch in schema[keyword] if branch != {"type": "null"}]
            if len(branches) != 1:
                raise UnsupportedSchemaError(f"{path or 'root'}: is a union of several types")
            inner = branches[0]
            outer = {name: value for name, value in schema.items() if name != keyword}
        else:
            return schema
        merged = inner | outer
        if "description" in inner and "description" in outer:
            merged["description"] = _fuller(outer["description"], inner["description"])
        schema = merged


def _fuller(field: str, model: str) -> str:
    """Return the field's description, or the model's where that one begins with the same words."""
    return model if model.startswith(field.rstrip(".")) else field


def joined_lines(description: str) -> str:
    """Return a docstring as one line per paragraph, as `kubectl explain` shows it."""
    paragraphs = description.strip().split("\n\n")
    return "\n\n".join(" ".join(text.split()) for text in paragraphs).replace("``", "`")


def _inclusive_bounds(schema: Schema, path: str) -> Schema:
    if schema.get("type") != "integer":
        raise UnsupportedSchemaError(f"{path or 'root'}: exclusive bounds need an integer")
    bounds: Schema = {}
    if "exclusiveMinimum" in schema:
        bounds["minimum"] = schema["exclusiveMinimum"] + 1
    if "exclusiveMaximum" in schema:
        bounds["maximum"] = schema["exclusiveMaximum"] - 1
    return bounds
