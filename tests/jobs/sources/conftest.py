import secrets
from pathlib import Path

import pytest

from persona_jobs.store import Store, open_store
from support.s3_server import S3Server

BUCKET = "sources"


@pytest.fixture(autouse=True)
def clean_environment(no_aws_environment: None) -> None:
    pass


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty folder of a bucket on the server that the environment names."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{secrets.token_hex(6)}")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint; copy it before you change it."""
    from support.tiny_checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    save_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.tiny_checkpoint import save_gguf

    path = tmp_path_factory.mktemp("tiny-gguf") / "tiny.gguf"
    save_gguf(path)
    return path
