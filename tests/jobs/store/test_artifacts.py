"""Publishing and reading stage results in either kind of store."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persona_jobs.errors import CorruptArtifactError, InputError, StoreError
from persona_jobs.store import FileStore, StageArtifacts, StageManifest, Store, open_store
from support.s3_server import S3Server

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
ROOT = f"stages/mask/{KEY}"


def record(**changes: object) -> StageManifest:
    values: dict[str, object] = {"stage": "mask", "stage_version": 3, "key": KEY}
    return StageManifest.model_validate({**values, **changes})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    (folder / "sub").mkdir(parents=True)
    (folder / "mask.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "sub" / "curve.jsonl").write_bytes(b'{"loss": 1}\n')
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> StageArtifacts:
    return StageArtifacts(store, tmp_path / "cache")


def fresh(store: Store, tmp_path: Path, name: str = "other-cache") -> StageArtifacts:
    return StageArtifacts(store, tmp_path / name)


def test_an_absent_result_is_not_finished(artifacts: StageArtifacts) -> None:
    assert artifacts.manifest("mask", KEY) is None
    with pytest.raises(CorruptArtifactError, match="mask is not finished"):
        artifacts.local_file("mask", KEY, "mask.safetensors")
    artifacts.delete("mask", KEY)
    assert artifacts.load_state("mask", KEY) is None
    artifacts.clear_state("mask", KEY)


def test_a_published_result_is_read_back(
    artifacts: StageArtifacts, output: Path, store: Store
) -> None:
    published = artifacts.publish(
        record(
            inputs={"rewrite": OTHER},
            metrics={"loss": 0.5, "bad": math.nan, "list": [1, math.inf]},
            timings={"train": 1.5},
            environment={"device": "cpu", "threads": 2},
        ),
        output,
    )
    assert set(published.files) == {"mask.safetensors", "sub/curve.jsonl", "empty"}
    assert published.metrics == {"loss": 0.5, "bad": None, "list": [1, None]}
    again = artifacts.manifest("mask", KEY)
    assert again == published
    assert sorted(store.list()) == sorted(
        f"{ROOT}/{name}" for name in [*published.files, "manifest.json"]
    )
    assert json.loads(store.read_bytes(f"{ROOT}/manifest.json"))["inputs"] == {"rewrite": OTHER}
    file = artifacts.local_file("mask", KEY, "sub/curve.jsonl")
    assert file.read_bytes() == b'{"loss": 1}\n'
    folder = artifacts.local_dir("mask", KEY)
    for name in published.files:
        assert (folder / name).read_bytes() == (output / name).read_bytes()


def test_one_file_is_fetched_without_the_others(
    artifacts: StageArtifacts, output: Path, store: Store
) -> None:
    artifacts.publish(record(), output)
    file = artifacts.local_file("mask", KEY, "empty")
    assert file.is_file()
    if not isinstance(store, FileStore):
        assert not (file.parent / "mask.safetensors").exists()
    with pytest.raises(CorruptArtifactError, match=r"no file no-such\.json"):
        artifacts.local_file("mask", KEY, "no-such.json")


def test_a_result_is_read_without_a_cache_folder(store: Store, output: Path) -> None:
    artifacts = StageArtifacts(store)
    artifacts.publish(record(), output)
    assert (artifacts.local_dir("mask", KEY) / "empty").read_bytes() == b""


def test_the_first_complete_result_is_kept(artifacts: StageArtifacts, output: Path) -> None:
    first = artifacts.publish(record(metrics={"run": 1}), output)
    (output / "mask.safetensors").write_bytes(b"a later run made something else")
    assert artifacts.publish(record(metrics={"run": 2}), output) == first
    assert artifacts.local_file("mask", KEY, "mask.safetensors").stat().st_size == 25_600


def test_a_deleted_result_leaves_nothing(
    artifacts: StageArtifacts, output: Path, store: Store
) -> None:
    artifacts.publish(record(), output)
    artifacts.save_state("mask", KEY, output)
    artifacts.delete("mask", KEY)
    assert artifacts.manifest("mask", KEY) is None
    assert list(store.list()) == []


def test_reserved_file_names_are_refused(
    artifacts: StageArtifacts, output: Path, store: Store
) -> None:
    (output / "manifest.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"manifest\.json is reserved"):
        artifacts.publish(record(), output)
    (output / "manifest.json").unlink()
    (output / "resume").mkdir()
    (output / "resume" / "x").write_bytes(b"")
    with pytest.raises(InputError, match="resume/x is reserved"):
        artifacts.publish(record(), output)
    assert list(store.list()) == []


def damaged_manifests() -> dict[str, bytes]:
    good = json.loads(record(files={"x": {"sha256": OTHER, "size": 1}}).to_json())

    def changed(**changes: object) -> bytes:
        return json.dumps({**good, **changes}).encode()

    return {
        "empty": b"",
        "truncated": json.dumps(good).encode()[:-20],
        "not-utf8": b"\xff\xfe{}",
        "array": b"[]",
        "other-key": changed(key=OTHER),
        "other-stage": changed(stage="score"),
        "newer": changed(schema_version=2, something_new=1),
        "escaping-path": changed(files={"../../x": {"sha256": OTHER, "size": 1}}),
        "absolute-path": changed(files={"/etc/passwd": {"sha256": OTHER, "size": 1}}),
        "bad-sha": changed(files={"x": {"sha256": "12", "size": 1}}),
        "negative-size": changed(files={"x": {"sha256": OTHER, "size": -1}}),
        "unknown-field": changed(extra=1),
        "no-zone": changed(created_at="2026-01-01T00:00:00"),
        "deep": b'{"metrics": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    }


@pytest.mark.parametrize("damage", list(damaged_manifests()))
def test_a_damaged_manifest_is_named_and_replaced_by_a_new_result(
    artifacts: StageArtifacts, output: Path, store: Store, damage: str
) -> None:
    store.write_bytes(f"{ROOT}/manifest.json", damaged_manifests()[damage])
    with pytest.raises(CorruptArtifactError) as caught:
        artifacts.manifest("mask", KEY)
    assert store.describe(f"{ROOT}/manifest.json") in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000
    artifacts.publish(record(), output)
    assert artifacts.local_file("mask", KEY, "empty").read_bytes() == b""


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_named(
    artifacts: StageArtifacts, output: Path, store: Store, tmp_path: Path, damage: str
) -> None:
    artifacts.publish(record(), output)
    path = f"{ROOT}/mask.safetensors"
    data = store.read_bytes(path)
    if damage == "missing":
        store.delete(path)
    else:
        store.write_bytes(path, data[:-1] if damage == "truncated" else b"\x01" + data[1:])
    for call in ("local_file", "local_dir"):
        reader = fresh(store, tmp_path, f"cache-{call}")
        with pytest.raises(CorruptArtifactError) as caught:
            if call == "local_file":
                reader.local_file("mask", KEY, "mask.safetensors")
            else:
                reader.local_dir("mask", KEY)
        assert store.describe(path) in str(caught.value)
        assert store.describe(ROOT) in caught.value.hint
        assert caught.value.exit_code == 2
    # Undamaged files stay usable.
    assert fresh(store, tmp_path).local_file("mask", KEY, "empty").exists()


def test_damage_after_the_first_read_is_an_error_too(
    artifacts: StageArtifacts, output: Path, store: Store, tmp_path: Path
) -> None:
    artifacts.publish(record(), output)
    local = artifacts.local_file("mask", KEY, "mask.safetensors")
    local.write_bytes(b"\x01" + local.read_bytes()[1:])
    if isinstance(store, FileStore):
        with pytest.raises(CorruptArtifactError, match="altered"):
            artifacts.local_file("mask", KEY, "mask.safetensors")
    else:  # a spoiled copy in the cache is fetched again
        again = artifacts.local_file("mask", KEY, "mask.safetensors")
        assert again.read_bytes() == (output / "mask.safetensors").read_bytes()


def test_a_result_with_missing_or_truncated_files_is_published_again(
    artifacts: StageArtifacts, output: Path, store: Store, tmp_path: Path
) -> None:
    artifacts.publish(record(), output)
    store.delete(f"{ROOT}/empty")
    store.write_bytes(f"{ROOT}/mask.safetensors", b"short")
    artifacts.publish(record(), output)
    folder = fresh(store, tmp_path).local_dir("mask", KEY)
    assert (folder / "mask.safetensors").stat().st_size == 25_600


# Killed processes -------------------------------------------------------------------------------

PUBLISHER = """
import sys
from pathlib import Path
from persona_jobs.store import StageManifest, StageArtifacts, open_store
url, action, key, folder = sys.argv[1:]
artifacts = StageArtifacts(open_store(url))
print("ready", flush=True)
sys.stdin.readline()
if action == "publish":
    record = StageManifest(stage="mask", stage_version=3, key=key, metrics={"run": folder})
    print(artifacts.publish(record, Path(folder)).metrics["run"])
else:
    artifacts.save_state("mask", key, Path(folder))
"""


def start_publisher(store_url: str, action: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, store_url, action, KEY, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def release(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def kill_after_first_object(process: subprocess.Popen[str], store: Store, prefix: str) -> None:
    release(process)
    deadline = time.monotonic() + 60
    while not any(store.list(prefix)):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


@pytest.fixture
def many_files(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}").write_bytes(os.urandom(2000))
    return folder


def test_a_process_killed_while_publishing_leaves_no_damage(
    artifacts: StageArtifacts, store: Store, store_url: str, many_files: Path
) -> None:
    kill_after_first_object(start_publisher(store_url, "publish", many_files), store, ROOT)
    assert artifacts.manifest("mask", KEY) is None
    assert 0 < len(list(store.list(ROOT))) < 200
    artifacts.publish(record(), many_files)
    folder = artifacts.local_dir("mask", KEY)
    assert all(
        (folder / file.name).read_bytes() == file.read_bytes() for file in many_files.iterdir()
    )


def test_a_process_killed_while_saving_a_state_leaves_no_damage(
    artifacts: StageArtifacts, store: Store, store_url: str, many_files: Path, output: Path
) -> None:
    artifacts.save_state("mask", KEY, output)
    (earlier,) = {path.split("/")[4] for path in store.list(f"{ROOT}/resume")}
    process = start_publisher(store_url, "resume", many_files)
    release(process)
    deadline = time.monotonic() + 60
    while all(earlier in path for path in store.list(f"{ROOT}/resume")):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    loaded = artifacts.load_state("mask", KEY)
    assert loaded is not None
    assert (loaded / "sub" / "curve.jsonl").read_bytes() == b'{"loss": 1}\n'
    artifacts.save_state("mask", KEY, many_files)
    loaded = artifacts.load_state("mask", KEY)
    assert loaded is not None
    assert (loaded / "000").read_bytes() == (many_files / "000").read_bytes()


def test_concurrent_publishers_leave_one_complete_result(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    folders = [tmp_path / f"run-{number}" for number in range(3)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for name in range(12):
            (folder / f"file-{name:02d}").write_bytes(bytes([65 + number]) * 5000)
    processes = [start_publisher(store_url, "publish", folder) for folder in folders]
    for process in processes:
        release(process)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    reader = fresh(store, tmp_path)
    manifest = reader.manifest("mask", KEY)
    assert manifest is not None
    folder = reader.local_dir("mask", KEY)
    contents = {(folder / name).read_bytes() for name in manifest.files}
    winner = Path(str(manifest.metrics["run"]))
    assert contents == {(winner / "file-00").read_bytes()}


# Checkpoints ------------------------------------------------------------------------------------


def save(artifacts: StageArtifacts, tmp_path: Path, step: int) -> None:
    folder = tmp_path / f"step-{step}"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"step": step}))
    (folder / "z.safetensors").write_bytes(bytes([step]) * 1000)
    artifacts.save_state("mask", KEY, folder)


def test_states_that_hold_different_parts_are_all_kept(
    artifacts: StageArtifacts, tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        folder = tmp_path / f"part-{step}"
        folder.mkdir()
        (folder / "step").write_text(str(step))
        artifacts.save_state("mask", KEY, folder, keep_all=True)
    found = [(folder / "step").read_text() for folder in artifacts.load_states("mask", KEY)]
    assert found == ["3", "2", "1"]
    artifacts.clear_state("mask", KEY)
    assert list(artifacts.load_states("mask", KEY)) == []


def test_series_of_states_are_kept_apart(artifacts: StageArtifacts, tmp_path: Path) -> None:
    for step, series in ((1, ""), (2, "baseline"), (3, ""), (4, ""), (5, "")):
        folder = tmp_path / f"of-{step}"
        folder.mkdir()
        (folder / "step").write_text(str(step))
        artifacts.save_state("mask", KEY, folder, series=series)
    for series, step in (("", "5"), ("baseline", "2")):
        found = artifacts.load_state("mask", KEY, series=series)
        assert found is not None
        assert (found / "step").read_text() == step
    assert artifacts.load_state("mask", KEY, series="other") is None
    artifacts.clear_state("mask", KEY)
    assert artifacts.load_state("mask", KEY, series="baseline") is None


def loaded_step(artifacts: StageArtifacts) -> int | None:
    folder = artifacts.load_state("mask", KEY)
    if folder is None:
        return None
    step = int(json.loads((folder / "state.json").read_text())["step"])
    assert (folder / "z.safetensors").read_bytes() == bytes([step]) * 1000
    return step


def state_names(store: Store) -> list[str]:
    return sorted({path.split("/")[4] for path in store.list(f"{ROOT}/resume")})


def test_the_last_two_states_are_kept(
    artifacts: StageArtifacts, store: Store, tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        save(artifacts, tmp_path, step)
        assert loaded_step(artifacts) == step
    assert len(state_names(store)) == 2
    assert artifacts.manifest("mask", KEY) is None
    artifacts.clear_state("mask", KEY)
    assert loaded_step(artifacts) is None
    assert list(store.list()) == []


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "record", "no-record"])
def test_a_damaged_state_falls_back_to_the_one_before(
    artifacts: StageArtifacts,
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    save(artifacts, tmp_path, 1)
    save(artifacts, tmp_path, 2)

    def spoil(name: str) -> None:
        folder = f"{ROOT}/resume/{name}"
        if damage == "altered":
            store.write_bytes(f"{folder}/z.safetensors", b"\7" * 1000)
        elif damage == "truncated":
            store.write_bytes(f"{folder}/z.safetensors", b"\2" * 999)
        elif damage == "missing":
            store.delete(f"{folder}/state.json")
        elif damage == "record":
            store.write_bytes(f"{folder}/resume.json", b'{"files": {"../x"')
        else:
            store.delete(f"{folder}/resume.json")

    first, second = state_names(store)
    spoil(second)
    assert loaded_step(fresh(store, tmp_path)) == 1
    assert second in caplog.text
    spoil(first)
    assert loaded_step(fresh(store, tmp_path, "third-cache")) is None
    save(artifacts, tmp_path, 3)
    assert loaded_step(artifacts) == 3


def test_stores_need_no_torch(tmp_path: Path) -> None:
    code = "import sys, persona_jobs.store; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_published_result_survives_a_crash_of_the_s3_server(tmp_path: Path, output: Path) -> None:
    server = S3Server(tmp_path / "s3")
    try:
        server.make_buckets("artifacts")
        StageArtifacts(open_store("s3://artifacts", server.options())).publish(record(), output)
    finally:
        server.stop()
    server = S3Server(tmp_path / "s3")
    try:
        reader = StageArtifacts(open_store("s3://artifacts", server.options()), tmp_path / "c")
        assert (reader.local_dir("mask", KEY) / "empty").exists()
    finally:
        server.stop()


def test_a_failed_clean_up_does_not_fail_the_work(
    artifacts: StageArtifacts,
    output: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(prefix: str) -> None:
        raise StoreError(f"Can't delete {prefix}")

    monkeypatch.setattr(store, "delete_prefix", fail)
    for _ in range(4):
        artifacts.save_state("mask", KEY, output)
    assert artifacts.load_state("mask", KEY) is not None
    artifacts.clear_state("mask", KEY)
    assert f"Can't delete {ROOT}/resume" in caplog.text


def test_a_result_that_lost_a_file_is_not_finished(
    artifacts: StageArtifacts, output: Path, store: Store
) -> None:
    artifacts.publish(record(), output)
    assert artifacts.finished("mask", KEY) is not None
    store.delete(f"{ROOT}/mask.safetensors")
    assert artifacts.finished("mask", KEY) is None
    artifacts.publish(record(), output)
    assert artifacts.finished("mask", KEY) is not None
