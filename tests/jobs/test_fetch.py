import hashlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from persona_jobs.errors import CorruptArtifactError, InputError, StoreError
from persona_jobs.fetch import main
from persona_jobs.pipeline.results import TerminationMessage
from persona_jobs.store import S3Options, StageArtifacts, StageManifest, open_store
from persona_jobs.store import fetch as library
from persona_jobs.store.fetch import fetch
from support.s3_server import running_s3_server

KEY = "ab" * 32
FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 4096,
    "extra/notes.txt": "héllo".encode(),
    "empty": b"",
}


def publish(store, tmp_path, files=FILES, key=KEY):
    source = tmp_path / f"source-{key[:4]}"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    StageArtifacts(store).publish(StageManifest(stage="slice", stage_version=1, key=key), source)


@pytest.fixture
def store(tmp_path):
    store = open_store(f"file://{tmp_path}/store")
    publish(store, tmp_path)
    return store


@pytest.fixture
def run(store, tmp_path, monkeypatch):
    """The command line over that store: returns its exit code and termination message."""
    path = tmp_path / "termination-log"
    monkeypatch.setenv("PERSONA_STORE", store.url)
    monkeypatch.setenv("PERSONA_TERMINATION_MESSAGE", str(path))

    def call(*arguments):
        path.unlink(missing_ok=True)
        code = main([str(argument) for argument in arguments])
        return code, TerminationMessage.decode(path.read_text())

    return call


def content(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_files_are_copied_and_a_second_call_keeps_them(run, tmp_path):
    destination = tmp_path / "new" / "model"
    code, message = run("slice", KEY, destination)
    assert code == 0
    assert (message.outcome, message.stage, message.key) == ("Done", "slice", KEY)
    assert content(destination) == FILES
    size = sum(map(len, FILES.values()))
    assert message.metrics == {"files": 4, "bytes": size, "fetched": size}
    written = {path: path.stat().st_mtime_ns for path in destination.rglob("*") if path.is_file()}

    code, message = run("slice", KEY, destination)
    assert (code, message.outcome, message.metrics["fetched"]) == (0, "Reused", 0)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_only_damaged_or_missing_files_are_fetched_again(run, tmp_path):
    destination = tmp_path / "model"
    run("slice", KEY, destination)
    (destination / "config.json").write_bytes(b"[]")
    (destination / "extra/notes.txt").unlink()
    code, message = run("slice", KEY, destination)
    assert (code, message.outcome) == (0, "Done")
    assert message.metrics["fetched"] == len(FILES["config.json"]) + len(FILES["extra/notes.txt"])
    assert content(destination) == FILES


def test_an_interrupted_download_is_resumed(store, tmp_path):
    name, data = "model.safetensors", FILES["model.safetensors"]
    destination = tmp_path / "model"
    destination.mkdir()
    part = destination / f"{name}.{hashlib.sha256(data).hexdigest()[:16]}.part"
    part.write_bytes(data[:1000])
    fetch(store, "slice", KEY, destination)
    assert content(destination) == FILES


def test_a_damaged_object_is_refused(run, store, tmp_path):
    object_path = tmp_path / "store/stages/slice" / KEY / "model.safetensors"
    data = bytearray(object_path.read_bytes())
    data[5] ^= 1
    object_path.write_bytes(data)
    code, message = run("slice", KEY, tmp_path / "model")
    assert code == 2
    assert (message.outcome, message.failure.error_class) == ("Failed", "CorruptArtifactError")
    assert "model.safetensors" in message.failure.message
    assert not (tmp_path / "model/model.safetensors").exists()


def test_a_missing_object_is_refused(store, tmp_path):
    (tmp_path / "store/stages/slice" / KEY / "config.json").unlink()
    with pytest.raises(CorruptArtifactError, match=r"config\.json does not exist"):
        fetch(store, "slice", KEY, tmp_path / "model")


def test_a_manifest_of_another_key_is_refused(store, tmp_path):
    other = "cd" * 32
    folder = tmp_path / "store/stages/slice"
    (folder / KEY).rename(folder / other)
    with pytest.raises(CorruptArtifactError, match="belongs to stage slice"):
        fetch(store, "slice", other, tmp_path / "model")


def test_an_unfinished_stage_is_an_error_that_may_be_retried(run, tmp_path):
    code, message = run("slice", "cd" * 32, tmp_path / "model")
    assert code == 1
    assert "is not finished" in message.failure.message
    assert message.failure.hint


def test_a_directory_with_files_of_another_model_is_refused(run, store, tmp_path):
    other = "cd" * 32
    publish(store, tmp_path, {"model-00001-of-00002.safetensors": b"x"}, key=other)
    run("slice", other, tmp_path / "model")
    code, message = run("slice", KEY, tmp_path / "model")
    assert code == 2
    assert "model-00001-of-00002.safetensors" in message.failure.message
    assert not (tmp_path / "model/config.json").exists()


def test_the_lost_and_found_folder_of_a_mounted_volume_is_ignored(store, tmp_path):
    (tmp_path / "model/lost+found").mkdir(parents=True)
    (tmp_path / "model/lost+found/#12").write_bytes(b"x")
    assert fetch(store, "slice", KEY, tmp_path / "model").files == 4


def test_a_volume_that_is_too_small_is_an_error_before_the_download(store, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(library.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match="1,000 bytes free"):
        fetch(store, "slice", KEY, tmp_path / "model")


@pytest.mark.parametrize(
    ("stage", "key"),
    [("../slice", KEY), ("Slice", KEY), ("", KEY), ("slice", KEY[:8]), ("slice", "../" + KEY[3:])],
)
def test_a_malformed_stage_or_key_is_refused(store, tmp_path, stage, key):
    with pytest.raises(InputError):
        fetch(store, stage, key, tmp_path / "model")


def test_a_file_in_place_of_the_directory_is_an_error(run, tmp_path):
    (tmp_path / "model").write_bytes(b"")
    code, message = run("slice", KEY, tmp_path / "model")
    assert code == 1
    assert str(tmp_path / "model") in message.failure.message


@pytest.mark.parametrize("url", ["", "ftp://host/store"])
def test_a_missing_or_wrong_store_url_is_an_input_error(run, tmp_path, monkeypatch, url):
    monkeypatch.setenv("PERSONA_STORE", url)
    code, message = run("slice", KEY, tmp_path / "model")
    assert (code, message.failure.error_class) == (2, "InputError")


def test_files_are_fetched_from_an_s3_server(tmp_path, monkeypatch):
    with running_s3_server(tmp_path / "s3", "bucket") as server:
        store = open_store("s3://bucket/prefix", server.options())
        publish(store, tmp_path)
        fetched = fetch(store, "slice", KEY, tmp_path / "model")
        again = fetch(store, "slice", KEY, tmp_path / "model")
    assert content(tmp_path / "model") == FILES
    assert fetched.fetched_bytes == fetched.total_bytes
    assert again.fetched_bytes == 0
    unreachable = open_store(
        "s3://bucket/prefix",
        S3Options(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b", attempts=1),
    )
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        fetch(unreachable, "slice", KEY, tmp_path / "model")


def test_sigterm_stops_at_once_with_its_own_exit_code(tmp_path):
    message = tmp_path / "message"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **os.environ,
            "PERSONA_STORE": "s3://bucket/prefix",
            "PERSONA_TERMINATION_MESSAGE": str(message),
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "the-access-key",
            "AWS_SECRET_ACCESS_KEY": "the-secret-key",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "persona_jobs.fetch", "slice", KEY, str(tmp_path / "model")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(60)
        connection, _ = silent.accept()  # the request is on its way, and gets no answer
        with connection:
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
    assert process.returncode == 143
    reported = TerminationMessage.decode(message.read_text())
    assert (reported.outcome, reported.failure.error_class) == (
        "Interrupted",
        "StageInterruptedError",
    )
    assert "Traceback" not in log
    assert "the-secret-key" not in log
