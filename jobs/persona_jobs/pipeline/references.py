"""Who uses which result: an empty object each, `references/<owner>/<stage>/<key>`.

Results are shared by content key, also with other clusters and other machines that use the same
store. Nobody sees all of them, so each says in the store what it uses before it uses it, and a
result is removed only when no owner of it is left.
"""

import platform
import re
from collections.abc import Iterable, Mapping

from ..api import PersonaModel, PersonaModelSpec
from ..store import Store
from .graph import ANSWERS, answers_key, plan

OWNER_VARIABLE = "PERSONA_OWNER"
_FOLDER = "references"

StageKey = tuple[str, str]
"""Name of a stage and content key of its result."""


def owner_of(resource: PersonaModel, environ: Mapping[str, str]) -> str:
    """Return who uses a persona's results: the PersonaModel's uid, or name and machine."""
    metadata = resource.metadata
    here = f"{metadata.namespace}.{metadata.name}.{platform.node()}"
    return re.sub(r"[^A-Za-z0-9.-]", "-", environ.get(OWNER_VARIABLE) or here)


def planned_keys(spec: PersonaModelSpec) -> set[StageKey]:
    """Return every result of a persona's plan, the teacher's answers included.

    Raises:
        InputError: a source isn't pinned.
    """
    stages = plan(spec)
    keys = {(str(stage.name), stage.key) for stage in stages}
    return keys | {(ANSWERS, answers_key(stage)) for stage in stages if stage.name == "rewrite"}


def add_references(store: Store, owner: str, keys: Iterable[StageKey]) -> None:
    """Say in the store that `owner` uses these results, where it doesn't say so yet.

    Raises:
        StoreError: the store can't be read or written.
    """
    present = set(store.list(f"{_FOLDER}/{owner}"))
    for stage, key in sorted(keys):
        path = f"{_FOLDER}/{owner}/{stage}/{key}"
        if path not in present:
            store.write_bytes(path, b"")


def read_references(store: Store, owner: str | None = None) -> dict[str, set[StageKey]]:
    """Return the results that each owner uses, or that one owner does.

    Raises:
        StoreError: the store can't be read.
    """
    found: dict[str, set[StageKey]] = {}
    for path in store.list(_FOLDER if owner is None else f"{_FOLDER}/{owner}"):
        parts = path.split("/")
        if len(parts) == 4:
            found.setdefault(parts[1], set()).add((parts[2], parts[3]))
    return found


def remove_references(store: Store, owner: str) -> None:
    """Say in the store that `owner` uses nothing any more.

    Raises:
        StoreError: the store can't be written.
    """
    store.delete_prefix(f"{_FOLDER}/{owner}")
