"""A disk that is full or not writable, and files left by killed processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persona_jobs.errors import StoreError
from persona_jobs.store import FileStore, StageArtifacts, StageManifest, download

KEY = "ab" * 32


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("a file system can't be mounted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_is_an_error_and_keeps_the_old_object(small_disk: Path, tmp_path: Path) -> None:
    store = FileStore(small_disk / "store")
    store.write_bytes("a/kept", b"old content")
    big = tmp_path / "big"
    big.write_bytes(b"x" * (2 << 20))
    actions: list[Callable[[], object]] = [
        lambda: store.upload("a/kept", big),
        lambda: store.upload("b/new", big),
        lambda: store.write_bytes("a/kept", big.read_bytes()),
    ]
    for action in actions:
        with pytest.raises(StoreError, match="disk is full") as caught:
            action()
        assert store.url in str(caught.value)
        assert "space" in caught.value.hint
    assert store.read_bytes("a/kept") == b"old content"
    assert list(store.list()) == ["a/kept"]
    leftovers = [file for file in small_disk.rglob("*") if file.is_file()]
    assert [file.name for file in leftovers] == ["kept"]


def test_a_full_disk_leaves_a_publish_unfinished_and_a_retry_works(
    small_disk: Path, tmp_path: Path
) -> None:
    artifacts = StageArtifacts(FileStore(small_disk / "store"))
    output = tmp_path / "output"
    output.mkdir()
    (output / "a.json").write_bytes(b"{}")
    (output / "model.safetensors").write_bytes(b"x" * (700 << 10))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (600 << 10))
    record = StageManifest(stage="slice", stage_version=1, key=KEY)
    with pytest.raises(StoreError, match=r"model\.safetensors: the disk is full"):
        artifacts.publish(record, output)
    assert artifacts.manifest("slice", KEY) is None
    ballast.unlink()
    artifacts.publish(record, output)
    assert artifacts.local_file("slice", KEY, "model.safetensors").stat().st_size == 700 << 10


def test_a_full_cache_disk_is_an_error_that_names_the_local_file(
    small_disk: Path, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "store")
    store.write_bytes("x", b"x" * (2 << 20))
    with pytest.raises(StoreError, match="disk is full") as caught:
        download(store, "x", small_disk / "copy")
    assert str(small_disk / "copy") in str(caught.value)


def test_a_file_size_limit_is_an_error(tmp_path: Path) -> None:
    """The process may only write files of 100 kB, which needs no mount."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from persona_jobs.errors import StoreError
from persona_jobs.store import FileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = FileStore(Path({str(tmp_path / "store")!r}))
try:
    store.write_bytes("x", b"x" * 200_000)
except StoreError as exc:
    print(exc)
print(list(store.list()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "larger than this system allows" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_file_in_place_of_the_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"I am a file")
    store = FileStore(tmp_path / "store")
    with pytest.raises(StoreError, match="a file is where a directory should be") as caught:
        store.write_bytes("a", b"x")
    assert store.url in str(caught.value)
    assert store.stat("a") is None
    assert list(store.list()) == []


def test_a_read_only_disk_is_an_error_for_writes(small_disk: Path) -> None:
    store = FileStore(small_disk / "store")
    store.write_bytes("a/x", b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.read_bytes("a/x") == b"x"
    for action in (
        lambda: store.write_bytes("a/x", b"y"),
        lambda: store.delete("a/x"),
        lambda: store.delete_prefix("a"),
    ):
        with pytest.raises(StoreError) as caught:
            action()
        assert store.url in str(caught.value)
    assert store.read_bytes("a/x") == b"x"


def test_unfinished_files_are_hidden_and_removed_after_a_day(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    old, new = (tmp_path / "a" / f".x.{name}.tmp~" for name in ("old", "new"))
    old.parent.mkdir()
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    store.write_bytes("a/x", b"whole")
    assert list(store.list()) == ["a/x"]
    assert not old.exists()
    assert new.exists()
    store.delete_prefix("a")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_of_an_upload_is_an_error(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    with pytest.raises(StoreError, match="no-such-file"):
        store.upload("x", tmp_path / "no-such-file")
    assert store.stat("x") is None
