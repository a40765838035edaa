"""Running on one machine: where things are kept, and revisions of local files."""

import hashlib
import os
from pathlib import Path
from typing import Any

from ..api import PersonaModel, PersonaModelSpec, parse_resource
from ..errors import InputError
from ..pipeline.number_format import with_number_format
from ..sources.digest import digest
from ..store import S3Options
from ..store.urls import file_url_path


def default_store(file: Path) -> str:
    """Return the URL of the local store: `.persona/store` beside the file."""
    return (file.resolve().parent / ".persona" / "store").as_uri()


def default_cache() -> Path:
    """Return the folder for base models and downloads: PERSONA_CACHE, or the user's cache."""
    configured = os.environ.get("PERSONA_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "persona-pruner"


def store_options(spec: PersonaModelSpec) -> S3Options:
    """Return the S3 settings: the environment's, with those of the spec on top."""
    storage = spec.storage
    environment = dict(os.environ)
    if storage.endpoint:
        environment["AWS_ENDPOINT_URL_S3"] = storage.endpoint
    if storage.region:
        environment["AWS_REGION"] = storage.region
    if storage.addressing_style:
        style = "virtual" if storage.addressing_style == "VirtualHost" else "path"
        environment["AWS_S3_ADDRESSING_STYLE"] = style
    return S3Options.from_environment(environment)


def resolved(resource: PersonaModel) -> PersonaModel:
    """Return the resource with all that its content keys depend on settled.

    Raises:
        InputError: a file doesn't exist.
    """
    resource = with_local_revisions(resource)
    spec = with_number_format(resource.spec, _has_cuda)
    return resource.model_copy(update={"spec": spec})


def _has_cuda() -> bool:
    from ..models.compute import has_cuda

    return has_cuda()


def with_local_revisions(resource: PersonaModel) -> PersonaModel:
    """Return the resource with the content of its `file://` sources as their revisions.

    The content keys are made of URIs and revisions, so that editing a local file reruns what it
    touches. Sources with a revision of their own are left alone.

    Raises:
        InputError: a file doesn't exist.
    """
    document = resource.manifest()
    spec: dict[str, Any] = document["spec"]
    _stamp(spec["instructions"])
    _stamp(spec["referencePersonas"])
    for file in spec["evaluation"]["questionFiles"]:
        _stamp(file)
    model = spec["baseModel"]
    if model["uri"].startswith("file://") and not model.get("revision"):
        model["revision"] = _model_label(model["uri"])
    return parse_resource(document)


def _stamp(source: dict[str, Any]) -> None:
    if not source.get("revision"):
        revision = digest(source["uri"])
        if revision is not None:
            source["revision"] = revision


def _model_label(uri: str) -> str:
    """A label of names, sizes and times: hashing gigabytes at every start would take too long."""
    path = file_url_path(uri)
    if not path.exists():
        raise InputError(f"{path} does not exist", hint="Correct the path", subject=uri)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            status = file.stat()
            total.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"stat:{total.hexdigest()}"
