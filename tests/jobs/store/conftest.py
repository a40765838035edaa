import secrets
from pathlib import Path

import pytest

from persona_jobs.store import Store, open_store
from support.s3_server import S3Server

BUCKET = "artifacts"


@pytest.fixture(autouse=True)
def clean_environment(no_aws_environment: None) -> None:
    pass


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of either kind, which needs only the environment."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    server: S3Server = request.getfixturevalue("s3_server")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}/store"


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)
