"""The store's record of a persona's finished models: `personas/<namespace>/<name>.json`."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from ..api import PersonaModel
from ..store import ObjectNotFoundError, Store
from .graph import plan, short_key

MAX_REVISIONS = 50


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


def read_pointer(store: Store, namespace: str, name: str) -> Pointer:
    """The persona's record; an absent or unreadable one counts as empty (it can be rebuilt)."""
    try:
        return Pointer.model_validate_json(store.read_bytes(pointer_path(namespace, name)))
    except (ObjectNotFoundError, ValidationError):
        return Pointer(namespace=namespace, name=name)


def record_revision(store: Store, resource: PersonaModel) -> Pointer:
    """Put the resource's finished model first in the persona's record."""
    namespace, name = resource.metadata.namespace, resource.metadata.name
    keys = {stage.name: stage.key for stage in plan(resource.spec)}
    revision = RecordedRevision(
        id=short_key(keys["slice"]),
        keys=dict(keys),
        sparsity_percent=resource.spec.pruning.sparsity_percent,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    pointer = read_pointer(store, namespace, name)
    if pointer.revisions and pointer.revisions[0].keys == revision.keys:
        return pointer
    others = [old for old in pointer.revisions if old.keys != revision.keys]
    updated = pointer.model_copy(update={"revisions": [revision, *others][:MAX_REVISIONS]})
    data = updated.model_dump_json(indent=2).encode() + b"\n"
    store.write_bytes(pointer_path(namespace, name), data)
    return updated
