"""What all stages do before they compute anything."""

from pathlib import Path

import pytest

from persona_jobs.api import PersonaModelSpec, parse_resource
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import plan
from persona_jobs.pipeline.runner import run_stage
from persona_jobs.sources.resolve import SourceResolver
from persona_jobs.store import StageArtifacts, open_store
from support.local_pipeline import manifest


def pinned(folder: Path) -> PersonaModelSpec:
    """Return the spec of a tiny pipeline with the sources as they are now."""
    questions = folder / "questions.jsonl"
    questions.write_text('{"query": "Where is the ship?"}\n')
    document = manifest(
        folder, "http://teacher/v1", evaluation={"questionFiles": [{"uri": questions.as_uri()}]}
    )
    resolved = parse_resource(document).manifest()
    SourceResolver(folder / "cache").resolve(resolved["spec"])
    return parse_resource(resolved).spec


def run(folder: Path, spec: PersonaModelSpec, *names: str) -> None:
    artifacts = StageArtifacts(open_store((folder / "store").as_uri()), folder / "cache")
    for stage in plan(spec):
        if stage.name in names:
            run_stage(spec, stage, artifacts, cache=folder / "cache")


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
