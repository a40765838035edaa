"""Results in a store that nobody uses any more."""

from dataclasses import dataclass
from datetime import datetime

from ..errors import CorruptArtifactError
from ..store import StageArtifacts, Store
from .references import StageKey, read_references
from .revisions import read_pointer

_RECORD = ".json"
_REVISIONS = ".revisions"


@dataclass(frozen=True)
class UnusedResult:
    """A finished result that nobody uses.

    Attributes:
        stage: the stage that made it.
        key: its content key.
        created_at: when it was made.
        size: bytes of its files.
    """

    stage: str
    key: str
    created_at: datetime
    size: int


def used_results(store: Store, keep_revisions: int | None) -> set[StageKey]:
    """Return the results that a reference or a persona's record in the store names.

    Args:
        store: the artifact store.
        keep_revisions: revisions of each persona that count, from the newest one; None for all.
            What only former revisions name is not used, whoever refers to it.

    Raises:
        StoreError: the store can't be read.
    """
    personas = set()
    for path in store.list("personas"):
        _, namespace, entry, *_ = path.split("/")
        personas.add((namespace, entry.removesuffix(_RECORD).removesuffix(_REVISIONS)))
    recent: set[StageKey] = set()
    former: set[StageKey] = set()
    for persona in personas:
        for position, revision in enumerate(read_pointer(store, *persona).revisions):
            counts = keep_revisions is None or position < keep_revisions
            (recent if counts else former).update(revision.keys.items())
    referenced: set[StageKey] = set().union(*read_references(store).values())
    return (referenced - former) | recent


def unused_results(
    store: Store, *, before: datetime, keep_revisions: int | None
) -> list[UnusedResult]:
    """Return the finished results that nobody uses, the oldest first.

    Unfinished work and results whose record is damaged are left out: a stage that runs now may be
    at work on them.

    Args:
        store: the artifact store.
        before: only results that were made before this moment.
        keep_revisions: revisions of each persona that count; None for all.

    Raises:
        StoreError: the store can't be read.
    """
    artifacts = StageArtifacts(store)
    used = used_results(store, keep_revisions)
    present = {(stage, key) for _, stage, key, *_ in (path.split("/") for path in _files(store))}
    found = []
    for stage, key in present - used:
        try:
            manifest = artifacts.manifest(stage, key)
        except CorruptArtifactError:
            continue
        if manifest is not None and manifest.created_at < before:
            size = sum(entry.size for entry in manifest.files.values())
            found.append(UnusedResult(stage, key, manifest.created_at, size))
    return sorted(found, key=lambda item: (item.created_at, item.stage, item.key))


def remove_unused(
    store: Store, results: list[UnusedResult], *, keep_revisions: int | None
) -> list[UnusedResult]:
    """Remove results, except those that somebody has begun to use meanwhile; return those removed.

    Args:
        store: the artifact store.
        results: what was unused a moment ago.
        keep_revisions: revisions of each persona that count; None for all.

    Raises:
        StoreError: the store can't be read or written.
    """
    artifacts = StageArtifacts(store)
    used = used_results(store, keep_revisions)
    removed = [item for item in results if (item.stage, item.key) not in used]
    for item in removed:
        artifacts.delete(item.stage, item.key)
    return removed


def _files(store: Store) -> list[str]:
    return [path for path in store.list("stages") if path.count("/") >= 3]
