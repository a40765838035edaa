"""Every source is resolved once, before planning."""

import copy
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from persona_jobs.errors import InputError, StoreError
from persona_jobs.pipeline.pins import sources
from persona_jobs.sources import reading, resolve
from persona_jobs.sources.resolve import SourceResolver
from persona_jobs.store import Store
from persona_jobs.store.file import FileStore

OLD, NEW = "a" * 40, "b" * 40


def spec(**given: Any) -> dict[str, Any]:
    return {
        "persona": {"text": "You are a sailor."},
        "baseModel": {"uri": "hf://org/model", "revision": OLD},
        "instructions": {"uri": "builtin://general"},
        "referencePersonas": {"uri": "builtin://general"},
        "evaluation": {"questionFiles": []},
        **given,
    }


def resolved(cache: Path, **given: Any) -> dict[str, Any]:
    document = copy.deepcopy(spec(**given))
    SourceResolver(cache, os.environ).resolve(document)
    return document


class Hub:
    """The commits of the hub by repository, and what was asked."""

    def __init__(self) -> None:
        self.sha = OLD
        self.asked: list[tuple[str, str, str]] = []
        self.error: Exception | None = None

    def repo_info(self, name: str, *, revision: str, repo_type: str) -> Any:
        self.asked.append((name, revision, repo_type))
        if self.error:
            raise self.error
        return type("Info", (), {"sha": self.sha})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: found)
    return found


def test_the_hub_is_asked_for_the_commit_once_per_source(hub: Hub, tmp_path: Path) -> None:
    found = resolved(
        tmp_path,
        baseModel={"uri": "hf://org/model@v1"},
        instructions={"uri": "hf://org/data/config"},
    )
    assert found["baseModel"] == {"uri": "hf://org/model", "revision": OLD}
    assert found["instructions"] == {"uri": "hf://org/data/config", "revision": OLD}
    assert hub.asked == [("org/model", "v1", "model"), ("org/data", "main", "dataset")]
    hub.sha = NEW
    moved = resolved(tmp_path, baseModel={"uri": "hf://org/model"})
    assert moved["baseModel"]["revision"] == NEW


def test_a_pinned_commit_is_kept_without_asking(hub: Hub, tmp_path: Path) -> None:
    assert resolved(tmp_path)["baseModel"]["revision"] == OLD
    assert hub.asked == []


def test_without_network_the_cached_commit_counts_or_one_error(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "hub_cache_dir", lambda cache: cache / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.error = ConnectionError("no route")
    source = {"uri": "hf://org/model"}
    with pytest.raises(StoreError, match="hf://org/model can't be fetched"):
        resolved(tmp_path, baseModel=source)
    refs = tmp_path / "hub" / "models--org--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(NEW)
    assert resolved(tmp_path, baseModel=source)["baseModel"]["revision"] == NEW


def test_a_base_model_is_hashed_by_content_and_not_by_time(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"

    def revision() -> str:
        source = {"uri": folder.as_uri()}
        return str(resolved(tmp_path / "cache", baseModel=source)["baseModel"]["revision"])

    weights.write_bytes(b"one")
    first = revision()
    os.utime(weights, (1, 1))
    assert revision() == first == revision()
    weights.write_bytes(b"two")
    assert revision() != first
    (folder / "notes.txt").write_text("read by no stage")
    weights.write_bytes(b"one")
    assert revision() == first


SHARDS = [f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("changed", SHARDS)
def test_every_shard_of_a_split_gguf_file_counts(changed: str, tmp_path: Path) -> None:
    source = {"uri": (tmp_path / SHARDS[0]).as_uri()}
    for name in SHARDS:
        (tmp_path / name).write_bytes(b"one")
    first = resolved(tmp_path / "cache", baseModel=source)
    assert resolved(tmp_path / "cache", baseModel=source) == first
    (tmp_path / changed).write_bytes(b"another")
    assert resolved(tmp_path / "cache", baseModel=source) != first


def test_a_missing_shard_of_a_split_gguf_file_ends_planning(tmp_path: Path) -> None:
    for name in SHARDS[:2]:
        (tmp_path / name).write_bytes(b"one")
    with pytest.raises(InputError, match=SHARDS[2]):
        resolved(tmp_path / "cache", baseModel={"uri": (tmp_path / SHARDS[0]).as_uri()})


def test_every_shard_in_a_bucket_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "bucket")
    monkeypatch.setattr(reading, "open_store", lambda *_: store)
    source = {"uri": f"s3://bucket/models/{SHARDS[0]}"}
    for name in SHARDS:
        store.write_bytes(name, b"one")
    first = resolved(tmp_path, baseModel=source)
    assert resolved(tmp_path, baseModel=source) == first
    store.write_bytes(SHARDS[2], b"another")
    assert resolved(tmp_path, baseModel=source) != first


def test_a_label_of_the_user_stays_in_front_of_the_content(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    plain = {"uri": data.as_uri()}
    bare = resolved(tmp_path, instructions=plain)["instructions"]["revision"]
    labelled = resolved(tmp_path, instructions={**plain, "revision": "v1"})["instructions"]
    assert labelled["revision"] == f"v1-{bare}"
    assert resolved(tmp_path, instructions=labelled)["instructions"] == labelled


def test_built_in_sets_are_hashed(tmp_path: Path) -> None:
    found = resolved(tmp_path)
    revisions = {found[name]["revision"] for name in ("instructions", "referencePersonas")}
    assert len(revisions) == 2
    assert all(revision.startswith("sha256:") for revision in revisions)


def test_objects_in_a_bucket_are_stamped_by_their_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "bucket")
    monkeypatch.setattr(resolve, "open_store", lambda *_: store)
    source = {"uri": "s3://bucket/model"}
    with pytest.raises(InputError, match="s3://bucket/model does not exist"):
        resolved(tmp_path, baseModel=source)
    store.write_bytes("model.safetensors", b"one")
    first = resolved(tmp_path, baseModel=source)["baseModel"]["revision"]
    assert first == resolved(tmp_path, baseModel=source)["baseModel"]["revision"]
    store.write_bytes("model.safetensors", b"other")
    assert first != resolved(tmp_path, baseModel=source)["baseModel"]["revision"]


def test_resolving_local_sources_needs_no_torch() -> None:
    code = (
        "import sys; import persona_jobs.sources.resolve, persona_jobs.sources.personas, "
        "persona_jobs.sources.evaluation_files, persona_jobs.sources.instructions; "
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Sources that are read after they were resolved


def check(cache: Path, source: dict[str, str]) -> None:
    """Read a base model that was resolved before."""
    [base, *_] = sources(spec(baseModel=source))
    with SourceResolver(cache, os.environ).unchanged(base):
        pass


def test_a_file_that_changed_since_it_was_resolved_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    pinned = resolved(tmp_path / "cache", baseModel={"uri": model.as_uri()})["baseModel"]
    check(tmp_path / "cache", pinned)
    (model / "model.safetensors").write_bytes(b"two")
    with pytest.raises(InputError, match="has changed since it was resolved") as error:
        check(tmp_path / "cache", pinned)
    assert error.value.subject == "spec.baseModel"
    assert model.as_uri() in str(error.value)
    check(tmp_path / "cache", {"uri": model.as_uri()})  # nothing is known of an unpinned one


def test_a_digest_that_the_user_writes_is_kept_and_compared(tmp_path: Path) -> None:
    data = tmp_path / "model.gguf"
    data.write_bytes(b"one")
    pinned = {"uri": data.as_uri(), "revision": f"sha256:{'0' * 64}"}
    assert resolved(tmp_path / "cache", baseModel=pinned)["baseModel"] == pinned
    with pytest.raises(InputError, match="has changed"):
        check(tmp_path / "cache", pinned)


def test_an_object_that_changes_while_it_is_read_is_refused(bucket: Store, tmp_path: Path) -> None:
    bucket.write_bytes("model.safetensors", b"one")
    pinned = resolved(tmp_path, baseModel={"uri": bucket.url})["baseModel"]
    check(tmp_path, pinned)
    [base, *_] = sources(spec(baseModel=pinned))
    with (
        pytest.raises(InputError, match="has changed"),
        SourceResolver(tmp_path, os.environ).unchanged(base),
    ):
        bucket.write_bytes("model.safetensors", b"another")
    with pytest.raises(InputError, match="has changed"):
        check(tmp_path, pinned)


def test_an_object_may_be_pinned_by_the_checksum_of_its_content(
    bucket: Store, tmp_path: Path
) -> None:
    bucket.write_bytes("data.jsonl", b"one")
    source = {
        "uri": f"{bucket.url}/data.jsonl",
        "revision": f"sha256:{hashlib.sha256(b'one').hexdigest()}",
    }
    assert resolved(tmp_path, instructions=source)["instructions"] == source
    [_, data, *_] = sources(spec(instructions=source))
    with SourceResolver(tmp_path, os.environ).unchanged(data):
        pass
    with (
        pytest.raises(InputError, match="has changed"),
        SourceResolver(tmp_path, os.environ).unchanged(data),
    ):
        bucket.write_bytes("data.jsonl", b"another")
    with (
        pytest.raises(InputError, match="has changed"),
        SourceResolver(tmp_path, os.environ).unchanged(data),
    ):
        pass


def test_a_checkpoint_in_a_bucket_and_on_the_disk_have_one_checksum(
    bucket: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(name.encode())
        bucket.upload(name, folder / name)
    digest = resolved(tmp_path, baseModel={"uri": folder.as_uri()})["baseModel"]["revision"]
    check(tmp_path, {"uri": bucket.url, "revision": digest})
    bucket.write_bytes("config.json", b"{}")
    with pytest.raises(InputError, match="has changed"):
        check(tmp_path, {"uri": bucket.url, "revision": digest})


def test_a_file_of_a_package_is_stamped_with_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "weights_of_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    model = package / "tiny.gguf"
    model.write_bytes(b"one")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = {"uri": "pkg://weights_of_a_test/tiny.gguf"}
    pinned = resolved(tmp_path / "cache", baseModel=source)["baseModel"]
    assert pinned["revision"] == f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    check(tmp_path / "cache", pinned)
    model.write_bytes(b"two")
    with pytest.raises(InputError, match=r"pkg://weights_of_a_test/tiny\.gguf has changed"):
        check(tmp_path / "cache", pinned)
    gone = {"uri": "pkg://no_package_of_a_test/tiny.gguf"}
    with pytest.raises(InputError, match="no_package_of_a_test is not installed") as error:
        resolved(tmp_path / "cache", baseModel=gone)
    assert error.value.subject == "spec.baseModel"
