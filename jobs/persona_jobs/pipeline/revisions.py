"""The store's record of a persona's finished models: `personas/<namespace>/<name>.json`.

Each revision is also an object of its own beside it, so that two writers at once lose nothing: who
reads the record adds the revisions that it lacks.
"""

import hashlib
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..api import PersonaModel
from ..store import ObjectNotFoundError, Store
from .graph import plan, short_key

MAX_REVISIONS = 50

Record = TypeVar("Record", bound=BaseModel)


class RecordedRevision(BaseModel):
    """One finished model.

    Attributes:
        id: first 8 digits of the slice stage's key.
        keys: content key of every stage.
        sparsity_percent: sparsity it was made with.
        finished_at: when it was recorded (RFC 3339).
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    keys: dict[str, str]
    sparsity_percent: int
    finished_at: str


class Pointer(BaseModel):
    """A persona's finished models, newest first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    namespace: str
    name: str
    revisions: list[RecordedRevision] = []


def pointer_path(namespace: str, name: str) -> str:
    """Object name of a persona's record."""
    return f"personas/{namespace}/{name}.json"


def revisions_folder(namespace: str, name: str) -> str:
    """Folder of a persona's revisions, one object each; no record's name ends like this."""
    return f"personas/{namespace}/{name}.revisions"


def read_pointer(store: Store, namespace: str, name: str) -> Pointer:
    """Return the persona's record with all its revisions, newest first.

    An absent or unreadable record counts as empty: the revisions' own objects complete it.
    """
    found = _read(store, pointer_path(namespace, name), Pointer)
    revisions = list(found.revisions) if found else []
    for path in store.list(revisions_folder(namespace, name)):
        if revision := _read(store, path, RecordedRevision):
            revisions.append(revision)
    revisions.sort(key=lambda revision: revision.finished_at, reverse=True)
    newest: dict[str, RecordedRevision] = {}
    for revision in revisions:
        newest.setdefault(_digest(revision), revision)
    return Pointer(namespace=namespace, name=name, revisions=list(newest.values())[:MAX_REVISIONS])


def _read(store: Store, path: str, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(store.read_bytes(path))
    except (ObjectNotFoundError, ValidationError):
        return None


def _digest(revision: RecordedRevision) -> str:
    """Return what tells revisions with different keys apart."""
    keys = " ".join(f"{stage}={key}" for stage, key in sorted(revision.keys.items()))
    return hashlib.sha256(keys.encode()).hexdigest()[:16]


def record_revision(store: Store, resource: PersonaModel) -> Pointer:
    """Put the resource's finished model first in the persona's record."""
    namespace, name = resource.metadata.namespace, resource.metadata.name
    keys = {stage.name: stage.key for stage in plan(resource.spec)}
    revision = RecordedRevision(
        id=short_key(keys["slice"]),
        keys=dict(keys),
        sparsity_percent=resource.spec.pruning.sparsity_percent,
        finished_at=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    pointer = read_pointer(store, namespace, name)
    if pointer.revisions and pointer.revisions[0].keys == revision.keys:
        return pointer
    own = f"{revisions_folder(namespace, name)}/{_digest(revision)}.json"
    store.write_bytes(own, revision.model_dump_json(indent=2).encode() + b"\n")
    updated = read_pointer(store, namespace, name)
    data = updated.model_dump_json(indent=2).encode() + b"\n"
    store.write_bytes(pointer_path(namespace, name), data)
    return updated
