"""A persona's record in the store."""

from pathlib import Path

import pytest

from persona_jobs.api import PersonaModel
from persona_jobs.pipeline import revisions
from persona_jobs.pipeline.revisions import pointer_path, read_pointer, record_revision
from persona_jobs.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


def persona(sparsity: int) -> PersonaModel:
    return PersonaModel.model_validate(
        {
            "apiVersion": "persona-pruner.io/v1alpha1",
            "kind": "PersonaModel",
            "metadata": {"name": "captain", "namespace": "stories"},
            "spec": {
                "persona": {"text": "You are a captain."},
                "baseModel": {"uri": "hf://org/model", "revision": "abc"},
                "pruning": {"sparsityPercent": sparsity},
            },
        }
    )


def sparsities(store: Store) -> list[int]:
    return [found.sparsity_percent for found in read_pointer(store, "stories", "captain").revisions]


def test_revisions_are_recorded_once_newest_first(store: Store) -> None:
    for sparsity in (25, 30, 30, 40):
        record_revision(store, persona(sparsity))
    assert sparsities(store) == [40, 30, 25]
    record_revision(store, persona(25))
    assert sparsities(store) == [25, 40, 30]


def test_two_writers_lose_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record_revision(store, persona(25))
    stale = store.read_bytes(pointer_path("stories", "captain"))
    record_revision(store, persona(30))
    # Another writer read the record before, and replaces it now.
    store.write_bytes(pointer_path("stories", "captain"), stale)
    assert sparsities(store) == [30, 25]
    record_revision(store, persona(40))
    assert sparsities(store) == [40, 30, 25]

    store.write_bytes(pointer_path("stories", "captain"), b"{")
    assert sparsities(store) == [40, 30, 25]
    monkeypatch.setattr(revisions, "MAX_REVISIONS", 2)
    assert sparsities(store) == [40, 30]
