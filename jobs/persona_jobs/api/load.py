"""Read PersonaModels and PersonaRecipes from a file and report every error at once, by field path.

A file may hold, beside one PersonaModel, the PersonaRecipe and the ConfigMap that it names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ..errors import InputError
from .field_errors import describe_errors, invalid_fields
from .persona import PersonaCard
from .persona_model import API_VERSION, KIND, PersonaModel
from .recipe import RECIPE_KIND, merge_recipe, parse_recipe, without_nulls
from .yaml_documents import yaml_documents

MAX_FILE_BYTES = 1_048_576
Document = dict[str, Any]


@dataclass
class Documents:
    """The documents of a file.

    Attributes:
        models: PersonaModels.
        recipes: PersonaRecipes by name.
        config_maps: data of the ConfigMaps by name.
    """

    models: list[Document] = field(default_factory=list)
    recipes: dict[str, Document] = field(default_factory=dict)
    config_maps: dict[str, Document] = field(default_factory=dict)


def parse_resource(document: object, *, source: str = "resource") -> PersonaModel:
    """Validate one decoded PersonaModel that needs neither a recipe nor a ConfigMap any more.

    Raises:
        InputError: with one line per wrong field, each with its path.
    """
    if not isinstance(document, dict):
        raise InputError(
            f"The document is not a {KIND} (a mapping with apiVersion, kind, metadata and spec)",
            subject=source,
        )
    try:
        return PersonaModel.model_validate(without_nulls(document))
    except ValidationError as error:
        raise invalid_fields(source, describe_errors(error)) from None


def load_resource(path: Path) -> PersonaModel:
    """Read the one PersonaModel of a YAML or JSON file, resolved.

    Raises:
        InputError: unreadable file, not UTF-8, not YAML, no or several PersonaModels, a recipe or
            ConfigMap that the file does not hold, or wrong fields (each with its path).
    """
    documents = read_documents(path)
    if len(documents.models) != 1:
        names = ", ".join(str(_name(model)) for model in documents.models)
        found = f"{len(documents.models)} PersonaModels ({names})" if names else f"no {KIND}"
        raise InputError(
            f"{path} holds {found}",
            hint=f"Keep exactly one {KIND} ({API_VERSION}) in the file",
            subject=str(path),
        )
    return resolve_document(documents.models[0], documents, source=str(path))


class CheckedResource(NamedTuple):
    """A resource without errors.

    Attributes:
        title: its kind and name.
        base_model: URI of its base model, empty where a recipe sets none.
        card: the character card that it names.
    """

    title: str
    base_model: str
    card: PersonaCard | None = None


def validate_file(path: Path) -> list[CheckedResource]:
    """Check every PersonaModel and PersonaRecipe of a file.

    Raises:
        InputError: as `load_resource`, but several resources are allowed.
    """
    documents = read_documents(path)
    if not documents.models and not documents.recipes:
        raise InputError(
            f"{path} holds no {KIND} and no {RECIPE_KIND}",
            hint=f"Give the file a document with apiVersion {API_VERSION}",
            subject=str(path),
        )
    checked = []
    for name, recipe in documents.recipes.items():
        given = parse_recipe(recipe, source=str(path)).spec
        base = str((given.get("baseModel") or {}).get("uri") or "")
        checked.append(CheckedResource(f"{RECIPE_KIND} {name}", base))
    for model in documents.models:
        resource = resolve_document(model, documents, source=str(path))
        title = f"{KIND} {resource.metadata.name}"
        spec = resource.spec
        checked.append(CheckedResource(title, spec.base_model.uri, spec.persona.card))
    return checked


def resolve_document(document: Document, documents: Documents, *, source: str) -> PersonaModel:
    """Return a PersonaModel with its recipe merged in and its persona's text in place.

    Raises:
        InputError: `documents` lack the recipe or the ConfigMap, or a field is wrong.
    """
    spec = document.get("spec")
    reference = spec.get("recipeRef") if isinstance(spec, dict) else None
    recipe = None
    if isinstance(reference, dict):
        recipe = documents.recipes.get(str(reference.get("name")))
        if recipe is None:
            raise InputError(
                f"The spec names PersonaRecipe {reference.get('name')!r}, which {source} does not "
                "hold",
                hint="Add the PersonaRecipe as another document of the file",
                subject="spec.recipeRef",
            )
        recipe = parse_recipe(recipe, source=source).spec
    merged = with_recipe(document, recipe)
    return parse_resource(_with_text(merged, documents.config_maps, source), source=source)


def with_recipe(document: Mapping[str, Any], recipe: Mapping[str, Any] | None) -> Document:
    """Return a PersonaModel document with the spec of its recipe merged in."""
    spec = document.get("spec")
    if recipe is None or not isinstance(spec, Mapping):
        return dict(document)
    merged = merge_recipe(recipe, spec)
    merged.pop("recipeRef", None)
    return {**document, "spec": merged}


def read_documents(path: Path) -> Documents:
    """Return the documents of a file, of the kinds that are read.

    Raises:
        InputError: the file can't be read, or is no YAML of mappings.
    """
    documents = Documents()
    for document in yaml_documents(_read(path), source=str(path)):
        if not isinstance(document, dict):
            raise InputError(
                f"{path} holds a document that is not a mapping: "
                f"{json.dumps(document, default=str)[:60]}",
                hint=f"Give every document the form of a {KIND}, {RECIPE_KIND} or ConfigMap",
                subject=str(path),
            )
        kind = document.get("kind")
        if kind == RECIPE_KIND:
            documents.recipes[_name(document)] = document
        elif kind == "ConfigMap":
            documents.config_maps[_name(document)] = document.get("data") or {}
        elif kind == KIND or "spec" in document:
            documents.models.append(document)
    return documents


def _name(document: Document) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{path} has {size:,} bytes, more than the {MAX_FILE_BYTES:,} of a Kubernetes "
                "object",
                hint="Shorten the persona's text",
                subject=str(path),
            )
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start})",
            hint="Save the file with UTF-8 encoding",
            subject=str(path),
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} can't be read: {error.strerror}", hint="Check the path", subject=str(path)
        ) from None


def _with_text(
    document: dict[str, Any], config_maps: dict[str, dict[str, Any]], source: str
) -> dict[str, Any]:
    spec = document.get("spec")
    persona = spec.get("persona") if isinstance(spec, dict) else None
    reference = persona.get("configMapRef") if isinstance(persona, dict) else None
    if not isinstance(reference, dict) or not isinstance(persona, dict) or "text" in persona:
        return document
    text = config_maps.get(str(reference.get("name")), {}).get(str(reference.get("key")))
    if text is None:
        raise InputError(
            f"The spec names ConfigMap {reference.get('name')!r}, key {reference.get('key')!r}, "
            f"which {source} does not hold",
            hint="Add the ConfigMap as another document of the file, or use spec.persona.text",
            subject="spec.persona.configMapRef",
        )
    given = {name: value for name, value in persona.items() if name != "configMapRef"}
    return {**document, "spec": {**(spec or {}), "persona": {**given, "text": text}}}
