"""Stages that are stopped on the way end with the same results after a second start."""

import pytest

from persona_jobs.errors import StageInterruptedError
from persona_jobs.scoring import last_token
from support.local_pipeline import write_instructions
from support.stages import Stages, StopAfter, spec_of

QUERIES = 300  # three chunks


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resuming")
    write_instructions(folder / "many.jsonl", QUERIES)
    many = {"instructions": {"uri": f"file://{folder}/many.jsonl"}}
    return folder, spec_of(folder, "http://127.0.0.1:9/v1", **many)


@pytest.fixture(scope="module")
def whole(spec):
    stages = Stages(spec[1], spec[0], "whole")
    stages.run("reference")
    stages.run("score")
    return stages


@pytest.mark.parametrize(
    ("stage", "part", "units", "kept"),
    [
        ("reference", "reference personas x queries", 2 * last_token.CHUNK_QUERIES + 1, 1),
        ("reference", "reference personas x queries", 4 * last_token.CHUNK_QUERIES + 1, 2),
        ("score", "queries", 2 * last_token.CHUNK_QUERIES + 1, 2),
    ],
)
def test_scoring_resumes_with_the_chunks_that_are_finished(spec, whole, stage, part, units, kept):
    stages = Stages(spec[1], spec[0], f"{stage}-{units}")
    stages.run_before(stage)
    with pytest.raises(StageInterruptedError):
        stages.run(stage, StopAfter(part, units))
    progress = StopAfter()
    report = stages.run(stage, progress)
    assert report.outcome == "Done"
    assert f"resuming with {kept * last_token.CHUNK_QUERIES} queries" in " ".join(progress.notes)
    assert stages.files(stage) == whole.files(stage)
    assert not list(stages.artifacts.store.list(f"stages/{stage}/{report.key}/resume"))


def test_a_saved_part_that_is_damaged_is_computed_again(spec, whole):
    stages = Stages(spec[1], spec[0], "damaged")
    with pytest.raises(StageInterruptedError):
        stages.run("reference", StopAfter("reference personas x queries", 300))
    (part,) = (spec[0] / "damaged").glob("stages/reference/*/resume/*/part.safetensors")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    progress = StopAfter()
    stages.run("reference", progress)
    assert progress.notes == []
    assert stages.files("reference") == whole.files("reference")
