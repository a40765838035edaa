"""Read a PersonaModel from a file and report every error at once, by field path."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import InputError
from .persona_model import API_VERSION, KIND, PersonaModel
from .yaml_documents import yaml_documents

MAX_FILE_BYTES = 1_048_576


def parse_resource(document: object, *, source: str = "resource") -> PersonaModel:
    """Validate one decoded PersonaModel.

    Raises:
        InputError: with one line per wrong field, each with its path.
    """
    if not isinstance(document, dict):
        raise InputError(
            f"The document is not a {KIND} (a mapping with apiVersion, kind, metadata and spec)",
            subject=source,
        )
    try:
        return PersonaModel.model_validate(document)
    except ValidationError as error:
        lines = _describe(error)
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        raise InputError(
            f"{source}: {count}\n" + "\n".join(f"  {line}" for line in lines), subject=source
        ) from None


def load_resource(path: Path) -> PersonaModel:
    """Read the one PersonaModel of a YAML or JSON file.

    A persona given by `configMapRef` is read from a ConfigMap document of the same file.

    Raises:
        InputError: unreadable file, not UTF-8, not YAML, no or several PersonaModels, or wrong
            fields (all of them, each with its path).
    """
    models, config_maps = _documents(path)
    if len(models) != 1:
        names = ", ".join(str((m.get("metadata") or {}).get("name")) for m in models)
        found = f"{len(models)} PersonaModels ({names})" if models else f"no {KIND}"
        raise InputError(
            f"{path} holds {found}",
            hint=f"Keep exactly one {KIND} ({API_VERSION}) in the file",
            subject=str(path),
        )
    return parse_resource(_with_text(models[0], config_maps, str(path)), source=str(path))


def _documents(path: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    models: list[dict[str, Any]] = []
    config_maps: dict[str, dict[str, Any]] = {}
    for document in yaml_documents(_read(path), source=str(path)):
        if not isinstance(document, dict):
            raise InputError(
                f"{path} holds a document that is not a mapping: "
                f"{json.dumps(document, default=str)[:60]}",
                hint=f"Give every document the form of a {KIND} or a ConfigMap",
                subject=str(path),
            )
        if document.get("kind") == KIND or "spec" in document:
            models.append(document)
        elif document.get("kind") == "ConfigMap":
            config_maps[str((document.get("metadata") or {}).get("name"))] = (
                document.get("data") or {}
            )
    return models, config_maps


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
    return {**document, "spec": {**(spec or {}), "persona": {"text": text}}}


def _describe(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        path = ""
        for part in item["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown field: check its spelling and indentation"
        elif item["type"] == "missing":
            message = "is required"
        lines.append(f"{path or 'resource'}: {message}")
    return lines
