"""Who uses which result."""

from pathlib import Path

from persona_jobs.api import parse_resource
from persona_jobs.pipeline.references import (
    add_references,
    owner_of,
    read_references,
    remove_references,
)
from persona_jobs.store import FileStore
from support.operator_world import persona_document


def test_references_are_kept_by_owner(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    mask, score = ("mask", "a" * 64), ("score", "b" * 64)
    add_references(store, "uid-1", [mask, score])
    add_references(store, "uid-1", [mask])
    add_references(store, "uid-10", [mask])
    assert read_references(store) == {"uid-1": {mask, score}, "uid-10": {mask}}
    assert read_references(store, "uid-1") == {"uid-1": {mask, score}}
    remove_references(store, "uid-1")
    assert read_references(store) == {"uid-10": {mask}}


def test_the_owner_is_the_persona_models_uid_or_a_name_on_this_machine() -> None:
    resource = parse_resource(persona_document())
    assert owner_of(resource, {"PERSONA_OWNER": "1b2c-uid"}) == "1b2c-uid"
    owner = owner_of(resource, {})
    assert owner.startswith("stories.captain.")
    assert "/" not in owner
