"""Sources with a server and credentials of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persona_jobs.errors import StoreError
from persona_jobs.pipeline.pins import variable_prefix
from persona_jobs.sources import base_model, evaluation_files, instructions, personas
from persona_jobs.sources.access import SourceAccess, source_access
from persona_jobs.store import Store
from support.fake_hub import COMMIT, FakeHub
from support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

OWN_KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
# The store is on another server, with other credentials.
STORE = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "the-store",
    "AWS_SECRET_ACCESS_KEY": "of-the-store",
    "AWS_REGION": "us-east-1",
}


def test_variables_have_the_name_of_their_source() -> None:
    assert [
        variable_prefix(name)
        for name in (
            "baseModel",
            "instructions",
            "referencePersonas",
            "evaluation.questionFiles[12]",
        )
    ] == ["BASE_MODEL_", "INSTRUCTIONS_", "REFERENCE_PERSONAS_", "QUESTION_FILES_12_"]


def test_without_an_endpoint_or_credentials_the_usual_ones_count() -> None:
    assert source_access("baseModel", None, STORE) == SourceAccess()


def test_credentials_go_to_no_server_that_they_are_not_for() -> None:
    environ = {**STORE, "HF_TOKEN": "usual", "HF_ENDPOINT": "https://mirror"}
    foreign = source_access("baseModel", "https://elsewhere", environ)
    assert foreign.token is False
    assert foreign.s3 is not None
    assert (foreign.s3.endpoint, foreign.s3.access_key) == ("https://elsewhere", None)
    assert foreign.s3.ambient is False
    assert foreign.s3.trust_usual is True
    usual = source_access("baseModel", "https://mirror/", environ)
    assert usual.token is None
    same = source_access("baseModel", STORE["AWS_ENDPOINT_URL_S3"], environ)
    assert same.s3 is not None
    assert same.s3.access_key == "the-store"


def test_credentials_of_its_own_replace_the_usual_ones() -> None:
    own = {f"BASE_MODEL_{name}": value for name, value in OWN_KEYS.items()}
    environ = {**STORE, **own, "AWS_SESSION_TOKEN": "of-the-store", "BASE_MODEL_HF_TOKEN": "own"}
    access = source_access("baseModel", None, environ)
    assert access.token == "own"
    assert access.s3 is not None
    assert access.s3.endpoint == STORE["AWS_ENDPOINT_URL_S3"]
    assert (access.s3.access_key, access.s3.session_token) == (ACCESS_KEY, None)
    assert "own" not in repr(access)
    assert SECRET_KEY not in repr(access)
    assert source_access("instructions", None, environ) == SourceAccess()


def test_the_default_servers_are_usual_ones_too() -> None:
    hub = source_access("baseModel", "https://huggingface.co/", {"HF_TOKEN": "usual"})
    assert hub.token is None
    keys = {name: value for name, value in STORE.items() if "ENDPOINT" not in name}
    aws = source_access("baseModel", "https://s3.amazonaws.com", keys)
    assert aws.s3 is not None
    assert aws.s3.access_key == "the-store"
    elsewhere = source_access("baseModel", "https://s3.amazonaws.com", STORE)
    assert elsewhere.s3 is not None
    assert elsewhere.s3.access_key is None


def test_the_endpoint_of_the_spec_is_the_only_one_of_its_own() -> None:
    environ = {**STORE, "BASE_MODEL_AWS_ENDPOINT_URL_S3": "https://elsewhere"}
    assert source_access("baseModel", None, environ) == SourceAccess()
    access = source_access("baseModel", "https://here", environ)
    assert access.s3 is not None
    assert access.s3.endpoint == "https://here"


# Buckets


def own_access(name: str, server: S3Server) -> SourceAccess:
    own = {f"{variable_prefix(name)}{key}": value for key, value in OWN_KEYS.items()}
    return source_access(name, server.endpoint, {**STORE, **own})


def test_every_kind_of_source_is_read_from_its_own_server(
    bucket: Store, s3_server: S3Server, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for file in tiny_checkpoint.iterdir():
        bucket.upload(f"model/{file.name}", file)
    bucket.write_bytes("i.jsonl", b'{"instruction": "What is tea?", "output": "A drink."}\n')
    bucket.write_bytes("p.jsonl", b'"You are Bo."\n"You are Cy."\n')
    bucket.write_bytes("q.jsonl", b'{"query": "Where?"}\n')
    for name, value in STORE.items():
        monkeypatch.setenv(name, value)

    def access(name: str) -> dict[str, Any]:
        return {"cache_dir": tmp_path, "access": own_access(name, s3_server)}

    folder = base_model.resolve(f"{bucket.url}/model", **access("baseModel"))
    assert (folder / "model.safetensors").is_file()
    read = instructions.load(f"{bucket.url}/i.jsonl", **access("instructions"))
    assert [item.answer for item in read.instructions] == ["A drink."]
    found = personas.load(f"{bucket.url}/p.jsonl", **access("referencePersonas"))
    assert [item.text for item in found] == ["You are Bo.", "You are Cy."]
    asked = evaluation_files.load(f"{bucket.url}/q.jsonl", **access("evaluation.questionFiles[0]"))
    assert asked.questions == ("Where?",)


def test_a_private_bucket_refuses_a_source_without_its_credentials(
    bucket: Store, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket.write_bytes("p.jsonl", b'"You are Bo."\n"You are Cy."\n')
    access = source_access("referencePersonas", s3_server.endpoint, STORE)
    with pytest.raises(StoreError, match="Set REFERENCE_PERSONAS_AWS_ACCESS_KEY_ID"):
        personas.load(f"{bucket.url}/p.jsonl", cache_dir=tmp_path, access=access)


def test_one_uri_at_two_servers_is_two_downloads() -> None:
    assert SourceAccess("https://one").location("s3://a/b") != SourceAccess().location("s3://a/b")


# Hubs


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    found = FakeHub()
    yield found
    found.stop()


SCRIPT = """
import json, os, sys
from pathlib import Path
from persona_jobs.sources import base_model, instructions
from persona_jobs.sources.access import source_access
from persona_jobs.sources.resolve import SourceResolver
cache, endpoint = Path(sys.argv[1]), sys.argv[2]
spec = {
    "persona": {"text": "You are a sailor."},
    "baseModel": {"uri": "hf://org/tiny", "endpoint": endpoint},
    "instructions": {"uri": "hf://org/data", "endpoint": endpoint},
    "referencePersonas": {"uri": "builtin://general"},
}
found = SourceResolver(cache, os.environ).look_up(spec)
folder = base_model.resolve(
    "hf://org/tiny", found["baseModel"], cache_dir=cache,
    access=source_access("baseModel", endpoint, os.environ),
)
read = instructions.load(
    "hf://org/data", found["instructions"], cache_dir=cache,
    access=source_access("instructions", endpoint, os.environ),
)
answers = [item.answer for item in read.instructions]
print(json.dumps({"found": found, "files": sorted(os.listdir(folder)), "answers": answers}))
"""


def test_a_model_and_a_data_set_come_from_a_hub_of_their_own(
    hub: FakeHub, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub.models["org/tiny"] = {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()}
    hub.models["org/data"] = {
        "train.jsonl": b'{"instruction": "What is tea?", "output": "A drink."}\n',
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "cache"), hub.endpoint],
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_usual",
            "BASE_MODEL_HF_TOKEN": "hf_own",
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["found"] == {"baseModel": COMMIT, "instructions": COMMIT}
    assert "model.safetensors" in said["files"]
    assert said["answers"] == ["A drink."]
    assert hub.tokens == {"Bearer hf_own", None}, "the usual token is for the usual hub"
