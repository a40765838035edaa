"""Results in a store that nobody uses any more."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from persona_jobs.api import parse_resource
from persona_jobs.cli.app import app
from persona_jobs.pipeline.graph import keys
from persona_jobs.pipeline.references import add_references, remove_references
from persona_jobs.pipeline.revisions import record_revision
from persona_jobs.pipeline.unused import UnusedResult, remove_unused, unused_results
from persona_jobs.store import FileStore, StageArtifacts, StageManifest
from support.operator_world import laptop_spec, persona_document

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=3)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def publish(
    store: FileStore, tmp_path: Path, stage: str, key: str, created: datetime = OLD
) -> tuple[str, str]:
    folder = tmp_path / f"made-{stage}-{key[:8]}"
    folder.mkdir()
    (folder / "result.bin").write_bytes(b"x" * 1000)
    manifest = StageManifest(stage=stage, stage_version=1, key=key, files={}, inputs={},
                             created_at=created, parameters={}, metrics={}, timings={},
                             versions={}, environment={})  # fmt: skip
    StageArtifacts(store).publish(manifest, folder)
    return stage, key


def names(results: list[UnusedResult]) -> list[tuple[str, str]]:
    return [(item.stage, item.key) for item in results]


def test_what_nobody_names_is_unused(store: FileStore, tmp_path: Path) -> None:
    referenced = publish(store, tmp_path, "mask", "a" * 64)
    unused = publish(store, tmp_path, "score", "b" * 64)
    publish(store, tmp_path, "slice", "c" * 64, created=NOW)
    store.write_bytes(f"stages/rewrite/{'d' * 64}/resume/00000001-x/part.bin", b"unfinished")
    add_references(store, "uid-1", [referenced])
    before = NOW - timedelta(days=1)
    found = unused_results(store, before=before, keep_revisions=None)
    assert names(found) == [unused]
    assert found[0].size == 1000
    remove_references(store, "uid-1")
    assert set(names(unused_results(store, before=before, keep_revisions=None))) == {
        referenced,
        unused,
    }


def test_what_a_personas_record_names_is_used(store: FileStore, tmp_path: Path) -> None:
    document = persona_document()
    resource = parse_resource(document).model_copy(update={"spec": laptop_spec(document)})
    record_revision(store, resource)
    for stage, key in keys(resource.spec).items():
        publish(store, tmp_path, str(stage), key)
    assert unused_results(store, before=NOW, keep_revisions=None) == []
    store.delete("personas/stories/captain.json")
    assert (
        unused_results(store, before=NOW, keep_revisions=None) == []
    )  # each revision is an object of its own too
    store.delete_prefix("personas/stories/captain.revisions")
    assert len(unused_results(store, before=NOW, keep_revisions=None)) == 7


def test_former_revisions_count_only_where_they_are_to_be_kept(
    store: FileStore, tmp_path: Path
) -> None:
    plans = []
    for sparsity in (20, 30, 40):
        document = persona_document(pruning={"sparsityPercent": sparsity})
        resource = parse_resource(document).model_copy(update={"spec": laptop_spec(document)})
        record_revision(store, resource)
        plans.append({(str(stage), key) for stage, key in keys(resource.spec).items()})
        for stage, key in plans[-1].difference(*plans[:-1]):
            publish(store, tmp_path, stage, key)
        add_references(store, "uid-1", plans[-1])
    under_way = publish(store, tmp_path, "mask", "a" * 64)
    add_references(store, "uid-1", [under_way])

    def unused(keep: int | None) -> set[tuple[str, str]]:
        return set(names(unused_results(store, before=NOW, keep_revisions=keep)))

    first = plans[0] - plans[1]
    assert {stage for stage, _ in first} == {"mask", "recover", "slice", "evaluate"}
    assert unused(None) == unused(3) == set()
    assert unused(2) == first
    assert unused(1) == first | (plans[1] - plans[2])
    # Another persona's newest revision keeps what it shares.
    document = persona_document("poet", persona={"text": "You are captain, an old sailor."},
                                pruning={"sparsityPercent": 20})  # fmt: skip
    twin = parse_resource(document).model_copy(update={"spec": laptop_spec(document)})
    record_revision(store, twin)
    assert unused(2) == set()


def test_what_is_used_again_meanwhile_stays(store: FileStore, tmp_path: Path) -> None:
    mask = publish(store, tmp_path, "mask", "a" * 64)
    score = publish(store, tmp_path, "score", "b" * 64)
    found = unused_results(store, before=NOW, keep_revisions=None)
    add_references(store, "uid-1", [mask])
    assert names(remove_unused(store, found, keep_revisions=None)) == [score]
    artifacts = StageArtifacts(store)
    assert artifacts.finished(*mask) is not None
    assert artifacts.finished(*score) is None


def test_the_command_removes_only_when_it_is_told_to(store: FileStore, tmp_path: Path) -> None:
    mask = publish(store, tmp_path, "mask", "a" * 64)
    publish(store, tmp_path, "score", "b" * 64, created=NOW)

    def gc(*options: str) -> str:
        result = CliRunner().invoke(app, ["gc", store.url, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    printed = gc()
    assert "a" * 64 in printed
    assert "b" * 64 not in printed
    assert "1 result, 1.0 kB: used by nobody. Add --remove to remove them." in printed
    assert StageArtifacts(store).finished(*mask) is not None
    assert "removed." in gc("--remove")
    assert StageArtifacts(store).finished(*mask) is None
    assert "Every result in" in gc()
