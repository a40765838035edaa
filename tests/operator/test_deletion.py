"""Which artifacts are removed with a PersonaModel."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persona_jobs.pipeline.references import add_references, read_references
from persona_jobs.store import FileStore, StageArtifacts, StageManifest
from persona_operator.deletion import remove_artifacts, used_keys
from persona_operator.reconcile import Persona
from persona_operator.store_probe import StageKey
from support.operator_world import World, persona_document

STAGES = {"reference", "score", "rewrite", "mask", "recover", "slice", "evaluate"}


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def world_of(store: FileStore, *names: str) -> World:
    """Return a cluster whose personas are finished, with their results and references."""
    world = World()
    for name in names:
        document = persona_document(name, artifactPolicy="Delete")
        world.add(document)
        world.run(name)
        persona = world.persona(name)
        keys = {key for key in used_keys(persona, world.settings.profiles) if key[0] in STAGES}
        for key in keys:
            publish(store, key)
        add_references(store, persona.owner.uid, keys)
    return world


def publish(store: FileStore, key: StageKey) -> None:
    folder = Path(store.url.removeprefix("file://")).parent / f"made-{key[0]}-{key[1][:8]}"
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(key))
    manifest = StageManifest(stage=key[0], stage_version=1, key=key[1], files={}, inputs={},
                             created_at=datetime.now(UTC), parameters={}, metrics={}, timings={},
                             versions={}, environment={})  # fmt: skip
    StageArtifacts(store).publish(manifest, folder)


def present(store: FileStore, world: World, persona: Persona) -> set[str]:
    artifacts = StageArtifacts(store)
    keys = used_keys(persona, world.settings.profiles)
    return {stage for stage, key in keys if stage in STAGES and artifacts.finished(stage, key)}


def remove(store: FileStore, world: World, name: str, *others: Persona) -> tuple[int, int]:
    return remove_artifacts(store, world.persona(name), others, world.settings.profiles)


def test_only_results_that_no_other_persona_uses_are_removed(store: FileStore) -> None:
    world = world_of(store, "captain", "poet")
    captain, poet = world.persona("captain"), world.persona("poet")
    assert remove(store, world, "captain", poet) == (6, 1)
    assert present(store, world, captain) == {"reference"}
    assert present(store, world, poet) == STAGES
    assert set(read_references(store)) == {poet.owner.uid}


def test_results_that_another_cluster_uses_are_kept(store: FileStore) -> None:
    world = world_of(store, "captain")
    captain = world.persona("captain")
    # The same PersonaModel in another cluster with the same store: this operator doesn't see it.
    keys = {key for key in used_keys(captain, world.settings.profiles) if key[0] in STAGES}
    add_references(store, "uid-of-the-other-cluster", keys)
    store.write_bytes("personas/stories/captain.json", b"{}")
    assert remove(store, world, "captain") == (0, 7)
    assert present(store, world, captain) == STAGES
    assert store.stat("personas/stories/captain.json") is not None


def test_of_two_that_are_deleted_at_once_the_last_removes_what_both_used(
    store: FileStore,
) -> None:
    world = world_of(store, "captain", "poet")
    captain, poet = world.persona("captain"), world.persona("poet")
    leaving = [Persona.from_object({**document, "metadata": {
        **document["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
        for document in world.cluster.find("PersonaModel")]  # fmt: skip
    remove(store, world, "captain", leaving[1])
    remove(store, world, "poet", leaving[0])
    assert present(store, world, captain) == present(store, world, poet) == set()
    assert list(store.list("references")) == []


def test_results_of_earlier_specs_are_removed(store: FileStore) -> None:
    world = world_of(store, "captain")
    first = world.persona("captain")
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    assert remove(store, world, "captain")[1] == 0
    assert present(store, world, first) == set()


def test_a_result_that_another_persona_only_plans_is_kept(store: FileStore) -> None:
    world = world_of(store, "captain")
    world.add(persona_document("poet"))
    assert remove(store, world, "captain", world.persona("poet")) == (6, 1)


def test_what_evaluations_keep_beside_results_goes_with_them(
    store: FileStore, tmp_path: Path
) -> None:
    world = world_of(store, "captain", "poet")
    poet = world.persona("poet")
    artifacts, folder = StageArtifacts(store), tmp_path / "state"
    folder.mkdir()
    (folder / "parts.json").write_text("{}")
    kept = {}
    for persona in (world.persona("captain"), poet):
        keys = dict(used_keys(persona, world.settings.profiles))
        kept[persona.owner.name] = [("measurements", keys["slice"]), ("verdicts", keys["score"])]
        for stage, key in kept[persona.owner.name]:
            artifacts.save_state(stage, key, folder)
    remove(store, world, "captain", poet)
    assert [artifacts.load_state(*key) for key in kept["captain"]] == [None, None]
    assert None not in [artifacts.load_state(*key) for key in kept["poet"]]
