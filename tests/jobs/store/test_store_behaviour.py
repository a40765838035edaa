"""The behaviour of every kind of store."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_jobs.errors import CorruptArtifactError, InputError
from persona_jobs.store import ObjectNotFoundError, Store, download, open_store, validate_path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_an_object_is_written_read_and_replaced(store: Store) -> None:
    store.write_bytes("a/b.json", b"one")
    assert store.read_bytes("a/b.json") == b"one"
    store.write_bytes("a/b.json", b"longer than before")
    assert store.read_bytes("a/b.json") == b"longer than before"
    store.write_bytes("a/b.json", b"")
    assert store.read_bytes("a/b.json") == b""
    stat = store.stat("a/b.json")
    assert stat is not None
    assert stat.size == 0


def test_another_client_sees_what_was_written(store: Store, store_url: str) -> None:
    store.write_bytes("personas/default/ada.json", b"{}")
    other = open_store(store_url + "/")
    assert other.url == store.url
    assert other.read_bytes("personas/default/ada.json") == b"{}"


def test_absent_objects_are_not_found(store: Store, tmp_path: Path) -> None:
    assert store.stat("no/such") is None
    assert list(store.list()) == []
    assert list(store.list("no")) == []
    store.delete("no/such")
    store.delete_prefix("no")
    with pytest.raises(ObjectNotFoundError, match="no/such"):
        store.read_bytes("no/such")
    with pytest.raises(ObjectNotFoundError, match="no/such"):
        download(store, "no/such", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_folder_is_not_an_object(store: Store) -> None:
    store.write_bytes("a/b/c", b"x")
    assert store.stat("a/b") is None
    with pytest.raises(ObjectNotFoundError):
        store.read_bytes("a/b")


def test_the_written_stat_is_the_present_one_until_the_object_changes(store: Store) -> None:
    first = store.write_bytes("x", b"one")
    assert store.stat("x") == first
    assert store.write_bytes("x", b"two") != first
    assert store.stat("x") != first


def test_a_list_covers_only_the_given_folder(store: Store) -> None:
    for path in ("stages/a/1", "stages/a/sub/2", "stages/ab/3", "other"):
        store.write_bytes(path, b"x")
    assert sorted(store.list("stages/a")) == ["stages/a/1", "stages/a/sub/2"]
    assert sorted(store.list()) == ["other", "stages/a/1", "stages/a/sub/2", "stages/ab/3"]


def test_objects_and_folders_are_deleted(store: Store) -> None:
    for path in ("stages/a/1", "stages/a/2", "stages/ab/3"):
        store.write_bytes(path, b"x")
    store.delete("stages/a/1")
    assert sorted(store.list()) == ["stages/a/2", "stages/ab/3"]
    store.delete_prefix("stages/a")
    assert sorted(store.list()) == ["stages/ab/3"]
    store.write_bytes("stages/a/1", b"again")
    assert store.read_bytes("stages/a/1") == b"again"


@pytest.mark.parametrize("name", ["with space", "ümläut-日本", "a+b&c=d%20;'(1)", "#x?y", "~.tmp"])
def test_unusual_names_are_stored(store: Store, tmp_path: Path, name: str) -> None:
    store.write_bytes(f"dir/{name}", b"content")
    assert list(store.list("dir")) == [f"dir/{name}"]
    download(store, f"dir/{name}", tmp_path / "copy", sha256=sha256(b"content"))
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_large_files_are_sent_in_parts(store: Store, tmp_path: Path) -> None:
    data = random_bytes((37 << 20) + 11)
    (tmp_path / "model").write_bytes(data)
    written = store.upload("m/model.safetensors", tmp_path / "model")
    assert written.size == len(data)
    seen: list[tuple[int, int]] = []
    download(
        store,
        "m/model.safetensors",
        tmp_path / "new" / "copy",
        size=len(data),
        sha256=sha256(data),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sha256((tmp_path / "new" / "copy").read_bytes()) == sha256(data)
    assert seen[-1] == (len(data), len(data))
    assert seen == sorted(seen)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["copy"]


def test_a_correct_copy_is_kept(store: Store, tmp_path: Path) -> None:
    store.write_bytes("x", b"content")
    copy = tmp_path / "copy"
    copy.write_bytes(b"content")
    before = copy.stat()
    download(store, "x", copy, size=7, sha256=sha256(b"content"))
    assert copy.stat().st_ino == before.st_ino
    copy.write_bytes(b"altered")
    download(store, "x", copy, size=7, sha256=sha256(b"content"))
    assert copy.read_bytes() == b"content"


def part_file(copy: Path, digest: str) -> Path:
    return copy.with_name(f"{copy.name}.{digest[:16]}.part")


def test_a_truncated_download_is_resumed(store: Store, tmp_path: Path) -> None:
    data = random_bytes(5 << 20)
    store.write_bytes("x", data)
    copy = tmp_path / "copy"
    part_file(copy, sha256(data)).write_bytes(data[: 3 << 20])
    seen: list[int] = []
    download(store, "x", copy, sha256=sha256(data), progress=lambda done, total: seen.append(done))
    assert copy.read_bytes() == data
    assert seen[0] > 3 << 20
    assert os.listdir(tmp_path).count("copy") == 1


@pytest.mark.parametrize("leftover", [b"not the beginning of it", b"z" * (2 << 20), b"y" * 4096])
def test_a_wrong_partial_file_is_discarded(store: Store, tmp_path: Path, leftover: bytes) -> None:
    data = random_bytes(1 << 20)
    store.write_bytes("x", data)
    copy = tmp_path / "copy"
    part_file(copy, sha256(data)).write_bytes(leftover)
    download(store, "x", copy, sha256=sha256(data))
    assert copy.read_bytes() == data
    assert not part_file(copy, sha256(data)).exists()


def test_truncated_and_altered_objects_are_named(store: Store, tmp_path: Path) -> None:
    data = random_bytes(10_000)
    copy = tmp_path / "copy"
    store.write_bytes("m/truncated", data[:-1])
    with pytest.raises(CorruptArtifactError, match=r"m/truncated .*9,999 bytes instead of 10,000"):
        download(store, "m/truncated", copy, size=len(data), sha256=sha256(data))
    store.write_bytes("m/altered", b"\0" + data[1:])
    with pytest.raises(CorruptArtifactError, match=r"m/altered .*SHA-256"):
        download(store, "m/altered", copy, size=len(data), sha256=sha256(data))
    assert not copy.exists()
    store.write_bytes("m/altered", data)
    download(store, "m/altered", copy, size=len(data), sha256=sha256(data))
    assert copy.read_bytes() == data


BAD_PATHS = ["", "/", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb"]


@pytest.mark.parametrize("path", [*BAD_PATHS, "x" * 300, "\ud800", "/".join(["abcdefgh"] * 200)])
def test_bad_paths_are_refused(store: Store, tmp_path: Path, path: str) -> None:
    for action in (
        lambda: store.read_bytes(path),
        lambda: store.write_bytes(path, b""),
        lambda: store.stat(path),
        lambda: store.delete(path),
        lambda: store.delete_prefix(path),
        lambda: store.upload(path, Path(__file__)),
        lambda: download(store, path, tmp_path / "copy"),
    ):
        with pytest.raises(InputError):
            action()


@given(st.text(max_size=40))
def test_accepted_paths_stay_inside_the_store(path: str) -> None:
    try:
        validate_path(path)
    except InputError:
        return
    root = Path("/root/of/store")
    assert Path(os.path.normpath(root / path)).is_relative_to(root)
    assert os.path.normpath(root / path) != str(root)
    assert (root / path).as_posix() == f"/root/of/store/{path}"
