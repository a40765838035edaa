"""PersonaRecipe: everything of a PersonaModel's spec but the persona, shared by many of them.

`spec.recipeRef` of a PersonaModel names a recipe of its namespace. The PersonaModel's own fields
win: objects merge, lists replace, and choosing one member of a union drops the recipe's others.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from .common import DNS_SUBDOMAIN
from .field_errors import describe_errors, invalid_fields
from .persona_model import Metadata, PersonaModelSpec
from .training import METHOD_MEMBERS

RECIPE_KIND = "PersonaRecipe"
RECIPE_PLURAL = "personarecipes"
# Fields of a PersonaModel's spec that a recipe doesn't have.
OWN_FIELDS = ("persona", "recipeRef")
# Members of which an object may have one, by the object's path below `spec`.
UNIONS: Mapping[str, frozenset[str]] = {"serving": frozenset({"replicas", "autoscaling"})}
# Objects with a field that chooses one of their members: that field, and the member by its value.
DISCRIMINATED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "pruning": ("method", METHOD_MEMBERS),
}

_PLACEHOLDER_PERSONA = {"text": "A persona."}


class RecipeMetadata(Metadata):
    """Metadata of a recipe; its name only has to be an object name."""

    @model_validator(mode="after")
    def _name(self) -> Self:
        if len(self.name) > 253 or not re.fullmatch(DNS_SUBDOMAIN, self.name):
            raise ValueError("name must be a Kubernetes object name (lower case, digits, '-', '.')")
        return self


class PersonaRecipe(BaseModel):
    """A PersonaRecipe: its spec as written, each field checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    api_version: Annotated[Literal["persona-pruner.io/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["PersonaRecipe"]
    metadata: RecipeMetadata
    spec: dict[str, Any]


def parse_recipe(document: object, *, source: str = "recipe") -> PersonaRecipe:
    """Validate one decoded PersonaRecipe.

    Fields that a PersonaModel may add are allowed to be missing.

    Raises:
        InputError: with one line per wrong field, each with its path.
    """
    if not isinstance(document, Mapping):
        raise InputError(
            f"{source} is not a {RECIPE_KIND}",
            hint="Give it apiVersion, kind, metadata and spec",
            subject=source,
        )
    lines = []
    try:
        PersonaRecipe.model_validate(document)
    except ValidationError as error:
        lines += describe_errors(error)
    spec = without_nulls(document.get("spec") or {})
    if isinstance(spec, Mapping):
        lines += [f"spec.{name}: belongs in a PersonaModel" for name in OWN_FIELDS if name in spec]
        given = {name: value for name, value in spec.items() if name not in OWN_FIELDS}
        try:
            PersonaModelSpec.model_validate({**given, "persona": _PLACEHOLDER_PERSONA})
        except ValidationError as error:
            lines += describe_errors(error, prefix="spec.", ignored=("missing",))
    if lines:
        raise invalid_fields(source, lines)
    return PersonaRecipe.model_validate({**document, "spec": spec})


def merge_recipe(recipe: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a PersonaModel on top of its recipe's.

    Args:
        recipe: the recipe's spec, as JSON.
        own: the PersonaModel's spec, as JSON.
    """
    base = {name: value for name, value in recipe.items() if name not in OWN_FIELDS}
    return _merge(without_nulls(base), without_nulls(own), "")


def without_nulls(value: Any) -> Any:
    """Return a JSON value in which fields that are null are left out: they are not set."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _merge(base: Mapping[str, Any], own: Mapping[str, Any], path: str) -> dict[str, Any]:
    members = UNIONS.get(path, frozenset())
    chosen = members & own.keys()
    discriminator, member_by_value = DISCRIMINATED.get(path, ("", {}))
    if discriminator in own:
        members = frozenset(member_by_value.values())
        chosen = frozenset({member_by_value.get(own[discriminator], "")})
    merged = {
        name: value
        for name, value in base.items()
        if not chosen or name not in members or name in chosen
    }
    for name, value in own.items():
        inner = merged.get(name)
        below = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[name] = _merge(inner, value, below)
        else:
            merged[name] = value
    return merged
