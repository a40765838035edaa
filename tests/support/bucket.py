"""A bucket in the test cluster's MinIO, and a tiny base model with data in it."""

import json
import os
from pathlib import Path

from minio import Minio

from persona_jobs.store import S3Options, StageArtifacts, Store, open_store
from support.tiny import tiny_checkpoint

ENDPOINT = os.environ.get("E2E_STORE_ENDPOINT", "http://127.0.0.1:30900")
CLUSTER_ENDPOINT = os.environ.get("E2E_STORE_CLUSTER_ENDPOINT", "http://minio.minio.svc:9000")
ACCESS_KEY = os.environ.get("E2E_STORE_ACCESS_KEY", "trial-access")
SECRET_KEY = os.environ.get("E2E_STORE_SECRET_KEY", "trial-secret-key")

TOPICS = """
anchors apples bridges candles carpets castles clouds coffee compasses deserts drums eagles engines
farming forests gardens glaciers guitars harbors honey islands jungles kites lanterns libraries
mirrors mountains museums oceans paper pianos planets rivers salt sleep snow spices storms tea
telescopes tides trains umbrellas violins volcanoes wheat windmills wine
""".split()  # noqa: SIM905 -- easier to read


class Bucket:
    """One bucket per test run.

    Attributes:
        name: the bucket's name.
        uri: where the operator keeps artifacts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.uri = f"s3://{name}/personas"
        host = ENDPOINT.partition("://")[2]
        secure = ENDPOINT.startswith("https://")
        self._minio = Minio(host, ACCESS_KEY, SECRET_KEY, secure=secure)
        self._made: set[str] = set()
        self.make(name)

    def make(self, name: str) -> None:
        self._minio.make_bucket(name)
        self._made.add(name)

    def store(self, uri: str | None = None) -> Store:
        options = S3Options(endpoint=ENDPOINT, access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        return open_store(uri or self.uri, options)

    def artifacts(self) -> StageArtifacts:
        return StageArtifacts(self.store())

    def put(self, prefix: str, directory: Path) -> str:
        """Upload the files of a directory; returns its URI."""
        uri = f"s3://{self.name}/{prefix}"
        store = self.store(uri)
        for file in sorted(directory.iterdir()):
            store.upload(file.name, file)
        return uri

    def put_tiny_base(self, directory: Path, prefix: str = "base/tiny") -> str:
        return self.put(prefix, tiny_checkpoint(directory, layers=2))

    def put_instructions(self, directory: Path) -> str:
        lines = [
            {
                "instruction": f"Tell me about {topic}.",
                "output": f"People have known {topic} for a long time and {other} too.",
            }
            for topic, other in zip(TOPICS, TOPICS[::-1], strict=True)
        ]
        file = directory / "instructions.jsonl"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        store = self.store(f"s3://{self.name}/data")
        store.upload(file.name, file)
        return f"s3://{self.name}/data/{file.name}"

    def remove(self) -> None:
        for name in self._made:
            for item in self._minio.list_objects(name, recursive=True):
                self._minio.remove_object(name, item.object_name or "")
            self._minio.remove_bucket(name)
