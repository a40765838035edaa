"""What all stages do before they compute anything."""

import json
import os
from pathlib import Path

import pytest

from persona_jobs.api import PersonaModelSpec, parse_resource
from persona_jobs.errors import InputError
from persona_jobs.pipeline.context import StageContext
from persona_jobs.pipeline.graph import plan
from persona_jobs.pipeline.runner import run_stage
from persona_jobs.sources.resolve import SourceResolver
from persona_jobs.stages.common import chosen_persona
from persona_jobs.store import StageArtifacts, open_store
from support.cards import TEXT, card, png, text_chunk
from support.local_pipeline import manifest
from support.s3_server import S3Server


def pinned(folder: Path) -> PersonaModelSpec:
    """Return the spec of a tiny pipeline with the sources as they are now."""
    questions = folder / "questions.jsonl"
    questions.write_text('{"query": "Where is the ship?"}\n')
    document = manifest(
        folder, "http://teacher/v1", evaluation={"questionFiles": [{"uri": questions.as_uri()}]}
    )
    resolved = parse_resource(document).manifest()
    SourceResolver(folder / "cache", {}).resolve(resolved["spec"])
    return parse_resource(resolved).spec


def test_the_persona_of_a_card_is_read_by_each_stage_that_needs_it(tmp_path: Path) -> None:
    file = tmp_path / "captain.png"
    file.write_bytes(png(text_chunk(card())))
    own = {"turns": [{"query": "Who are you?", "answer": "Who asks?"}]}
    document = manifest(
        tmp_path,
        "http://teacher/v1",
        persona={"text": None, "card": {"uri": file.as_uri()}, "examples": [own]},
    )
    resolved = parse_resource(document).manifest()
    SourceResolver(tmp_path / "cache", {}).resolve(resolved["spec"])
    spec = parse_resource(resolved).spec
    context = StageContext(
        spec=spec,
        planned=plan(spec)[1],
        artifacts=StageArtifacts(open_store((tmp_path / "store").as_uri())),
        output=tmp_path,
        scratch=tmp_path,
        cache=tmp_path / "cache",
    )
    chosen = chosen_persona(context)
    assert chosen.text == TEXT
    asked = [turn.query for example in chosen.examples for turn in example.turns]
    assert asked == ["Who are you?", "Do you ever sleep?", "And rum?", "Where to?"]
    assert any("lorebook" in note for note in chosen.notes)
    file.write_bytes(png(text_chunk(card(name="Another"))))
    with pytest.raises(InputError, match="has changed since it was resolved") as raised:
        chosen_persona(context)
    assert raised.value.subject == "spec.persona.card"


def run(folder: Path, spec: PersonaModelSpec, *names: str) -> None:
    artifacts = StageArtifacts(open_store((folder / "store").as_uri()), folder / "cache")
    for stage in plan(spec):
        if stage.name in names:
            run_stage(spec, stage, artifacts, cache=folder / "cache")


def test_a_stage_reads_a_source_from_a_server_of_its_own(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = manifest(tmp_path, "http://teacher/v1")
    store = open_store(f"s3://sources/{tmp_path.name}", s3_server.options())
    store.upload("instructions.jsonl", tmp_path / "instructions.jsonl")
    document["spec"]["instructions"] = {
        "uri": f"s3://sources/{tmp_path.name}/instructions.jsonl",
        "endpoint": s3_server.endpoint,
    }
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-store")
        monkeypatch.setenv(f"INSTRUCTIONS_{name}", s3_server.environment()[name])
    resolved = parse_resource(document).manifest()
    SourceResolver(tmp_path / "cache", os.environ).resolve(resolved["spec"])
    spec = parse_resource(resolved).spec
    run(tmp_path, spec, "reference")
    reference = plan(spec)[0]
    made = StageArtifacts(open_store((tmp_path / "store").as_uri())).manifest(
        "reference", reference.key
    )
    assert made is not None
    assert made.metrics["queries"] == 60
    assert made.parameters["instructions.revision"].startswith("etag:")


@pytest.mark.parametrize(
    ("changed", "stages", "field"),
    [
        ("instructions.jsonl", ("reference",), "spec.instructions"),
        ("base/config.json", ("reference",), "spec.baseModel"),
        (
            "questions.jsonl",
            ("reference", "score", "rewrite"),
            "spec.evaluation.questionFiles[0]",
        ),
    ],
)
def test_a_stage_refuses_a_source_that_changed_after_planning(
    tmp_path: Path, changed: str, stages: tuple[str, ...], field: str
) -> None:
    spec = pinned(tmp_path)
    run(tmp_path, spec, *stages[:-1])
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="has changed since it was resolved") as error:
        run(tmp_path, spec, *stages)
    assert error.value.subject == field


# Results of other stages that contradict the spec


def rewrite_record(folder: Path, spec: PersonaModelSpec, **changes: object) -> None:
    """Change what the record of the reference stage says."""
    key = plan(spec)[0].key
    file = folder / "store" / "stages" / "reference" / key / "manifest.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, **changes}))


def test_a_stage_refuses_results_of_another_number_format(tmp_path: Path) -> None:
    spec = pinned(tmp_path)
    run(tmp_path, spec, "reference")
    rewrite_record(tmp_path, spec, environment={"device": "cpu", "dtype": "bfloat16"})
    with pytest.raises(InputError, match=r"reference computed in bfloat16, but .* in float32"):
        run(tmp_path, spec, "score")
    rewrite_record(tmp_path, spec, environment={"device": "cpu", "dtype": "float32"})
    run(tmp_path, spec, "score")


def test_an_open_number_format_is_compared_when_the_stage_chooses_it(tmp_path: Path) -> None:
    spec = pinned(tmp_path)
    auto = spec.model_copy(update={"compute": spec.compute.model_copy(update={"dtype": "Auto"})})
    run(tmp_path, auto, "reference")
    rewrite_record(tmp_path, auto, environment={"device": "cuda", "dtype": "bfloat16"})
    with pytest.raises(InputError, match=r"reference computed in bfloat16, but .* in float32"):
        run(tmp_path, auto, "score")


def test_a_stage_refuses_results_of_another_base_model(tmp_path: Path) -> None:
    spec = pinned(tmp_path)
    run(tmp_path, spec, "reference")
    parameters = {**plan(spec)[0].parameters, "baseModel.revision": f"sha256:{'0' * 64}"}
    rewrite_record(tmp_path, spec, parameters=parameters)
    with pytest.raises(InputError, match=r"reference was made with baseModel\.revision") as error:
        run(tmp_path, spec, "score")
    assert error.value.subject == "spec.baseModel.revision"
    assert error.value.exit_code == 2
