import logging
import os
import re
from collections.abc import Iterator

import pytest

from support.s3_server import S3Server, running_s3_server

LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "transformers")
DEPRECATION = re.compile(r"deprecated|will be removed|will no longer", re.IGNORECASE)


class DeprecationRecorder(logging.Handler):
    """Keeps the deprecations that libraries log instead of warning of them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if DEPRECATION.search(text):
            self.messages.append(text)


@pytest.fixture(autouse=True)
def no_logged_deprecations() -> Iterator[None]:
    recorder = DeprecationRecorder()
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    for logger in loggers:
        logger.addHandler(recorder)
    yield
    for logger in loggers:
        logger.removeHandler(recorder)
    assert recorder.messages == []


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3_server(tmp_path_factory.mktemp("s3"), "artifacts", "sources") as server:
        yield server


@pytest.fixture
def no_aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
