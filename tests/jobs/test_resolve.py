"""`python -m persona_jobs.resolve`, as its Job runs it in a cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persona_jobs.api import parse_resource
from persona_jobs.cli import local
from persona_jobs.pipeline.graph import keys
from persona_jobs.pipeline.pins import unpinned
from persona_jobs.pipeline.results import TerminationMessage
from persona_jobs.store import open_store
from support.cards import card, png, text_chunk
from support.fake_hub import COMMIT, FakeHub
from support.local_pipeline import manifest
from support.operator_world import NAMESPACE, World, laptop_spec
from support.s3_server import S3Server


def run(
    folder: Path, document: dict[str, Any], environment: dict[str, str]
) -> tuple[int, TerminationMessage]:
    """Run the process; returns its exit code and what the operator reads of it."""
    mounted, message = folder / "manifest.json", folder / "message"
    mounted.write_text(json.dumps(document))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "persona_jobs.resolve"],
        env={
            **plain,
            **environment,
            "PERSONA_MANIFEST": str(mounted),
            "PERSONA_TERMINATION_MESSAGE": str(message),
            "PERSONA_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    decoded = TerminationMessage.decode(message.read_text())
    assert decoded is not None, done.stderr
    assert "secret" not in done.stderr
    return done.returncode, decoded


@pytest.fixture
def document(s3_server: S3Server, tmp_path: Path) -> dict[str, Any]:
    """A PersonaModel with questions in a bucket, and files that only this test changes."""
    prefix = f"sources/{tmp_path.name}"
    store = open_store(f"s3://{prefix}", s3_server.options())
    store.write_bytes("questions.jsonl", b'{"query": "Where is the ship?"}\n')
    questions = [{"uri": f"s3://{prefix}/questions.jsonl", "revision": "v1"}]
    return manifest(tmp_path, "http://teacher/v1", evaluation={"questionFiles": questions})


def test_what_it_finds_leads_to_the_keys_of_a_laptop(
    document: dict[str, Any], s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, message = run(tmp_path, document, s3_server.environment())
    assert (code, message.outcome, message.stage) == (0, "Done", "resolve")
    found = message.metrics["sources"]
    assert isinstance(found, dict)
    assert set(found) == {"baseModel", "instructions", "evaluation.questionFiles[0]"}
    for name, value in {**s3_server.environment(), "PERSONA_CACHE": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    on_a_laptop = local.resolved(parse_resource(document)).spec
    assert keys(laptop_spec(document, **found)) == keys(on_a_laptop)


def test_a_missing_source_is_named_and_not_tried_again(
    document: dict[str, Any], s3_server: S3Server, tmp_path: Path
) -> None:
    document["spec"]["instructions"] = {"uri": f"s3://sources/{tmp_path.name}/none.jsonl"}
    code, message = run(tmp_path, document, s3_server.environment())
    assert code == 2
    assert message.failure is not None
    assert message.failure.error_class == "InputError"
    assert message.failure.subject == "spec.instructions"
    assert "none.jsonl does not exist" in message.failure.message
    assert message.failure.hint


@pytest.mark.parametrize("good", [True, False])
def test_a_card_is_looked_up_and_read(
    document: dict[str, Any], s3_server: S3Server, tmp_path: Path, good: bool
) -> None:
    prefix = f"sources/{tmp_path.name}"
    store = open_store(f"s3://{prefix}", s3_server.options())
    store.write_bytes("captain.png", png(text_chunk(card())) if good else png())
    document["spec"]["persona"] = {"card": {"uri": f"s3://{prefix}/captain.png"}}
    code, message = run(tmp_path, document, s3_server.environment())
    if good:
        assert code == 0
        assert message.metrics["sources"]["persona.card"].startswith("etag:")  # type: ignore[index, call-overload, union-attr]
        return
    assert code == 2
    assert message.failure is not None
    assert message.failure.error_class == "CardError"
    assert message.failure.subject == f"s3://{prefix}/captain.png"
    assert message.failure.message == "The image holds no character card"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    found = FakeHub()
    yield found
    found.stop()


def test_the_hub_is_asked_for_the_commit(
    document: dict[str, Any], hub: FakeHub, tmp_path: Path
) -> None:
    hub.models["org/model"] = {"config.json": b"{}"}
    document["spec"]["baseModel"] = {"uri": "hf://org/model"}
    document["spec"]["evaluation"] = {}
    known = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_secret"}
    code, message = run(tmp_path, document, known)
    assert (code, message.outcome) == (0, "Done")
    assert message.metrics["sources"]["baseModel"] == COMMIT  # type: ignore[index, call-overload]
    assert hub.tokens == {"Bearer hf_secret"}
    document["spec"]["baseModel"] = {"uri": "hf://org/none"}
    code, message = run(tmp_path, document, known)
    assert code == 2
    assert message.failure is not None
    assert message.failure.subject == "spec.baseModel"
    assert "hf://org/none does not exist on the hub" in message.failure.message


def test_a_hub_that_does_not_answer_may_be_asked_again(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["spec"]["baseModel"] = {"uri": "hf://org/model"}
    code, message = run(tmp_path, document, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert code == 1
    assert message.failure is not None
    assert message.failure.error_class == "StoreError"
    assert message.failure.subject == "spec.baseModel"
    assert "hf://org/model can't be fetched from the hub now" in message.failure.message


def test_a_server_that_does_not_answer_may_be_asked_again(
    document: dict[str, Any], s3_server: S3Server, tmp_path: Path
) -> None:
    nowhere = {**s3_server.environment(), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    code, message = run(tmp_path, document, nowhere)
    assert code == 1
    assert message.failure is not None
    assert message.failure.error_class == "StoreError"
    assert message.failure.subject == "spec.evaluation.questionFiles[0]"


def test_operator_lookup_and_stages_agree_on_the_keys(
    document: dict[str, Any], s3_server: S3Server, tmp_path: Path
) -> None:
    document["metadata"]["namespace"] = NAMESPACE
    world = World()
    world.add(document)

    def mounted() -> dict[str, Any]:
        """Return what the pod of the newest Job reads."""
        world.step()
        [name] = {
            volume["configMap"]["name"]
            for job in world.cluster.open_jobs()
            for volume in job["spec"]["template"]["spec"]["volumes"]
            if volume["name"] == "manifest"
        }
        config_map = world.cluster.get("ConfigMap", NAMESPACE, name)
        assert config_map is not None
        found: dict[str, Any] = json.loads(config_map["data"]["manifest.json"])
        return found

    code, message = run(tmp_path, mounted(), s3_server.environment())
    assert code == 0
    world.cluster.finish(world.job("resolve"), 0, message.encode().decode())
    world.step()
    # The stage process computes its key from what it reads, and the operator compares it.
    read = parse_resource(mounted()).spec
    assert unpinned(read.model_dump(mode="json", by_alias=True, exclude_none=True)) == []
    assert keys(read) == {item.name: item.key for item in world.persona().status.stages}
