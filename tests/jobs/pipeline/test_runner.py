"""Running one stage."""

from pathlib import Path

import pytest

from persona_jobs.api import PersonaModelSpec
from persona_jobs.errors import InputError, OutOfMemoryError
from persona_jobs.pipeline import runner
from persona_jobs.pipeline.runner import planned_stage, run_stage
from persona_jobs.store import StageArtifacts, open_store


def run(tmp_path: Path, stage: str, error: Exception, **sections: object) -> None:
    """Run a stage that raises `error`."""
    spec = PersonaModelSpec.model_validate(
        {"persona": {"text": "A captain."}, "baseModel": {"uri": "hf://org/model"}, **sections}
    )

    def fail(_context: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_stage_function", lambda _name: fail)
        artifacts = StageArtifacts(open_store(f"file://{tmp_path}/store"))
        run_stage(spec, planned_stage(spec, stage), artifacts, cache=tmp_path)


ON = {"enabled": True}
LEARNED = {"method": "StraightThrough"}


@pytest.mark.parametrize(
    ("stage", "sections", "hint"),
    [
        ("mask", {"pruning": LEARNED}, "Lower spec.pruning.straightThrough.microBatchSize"),
        (
            "mask",
            {"pruning": {**LEARNED, "straightThrough": {"microBatchSize": 1}}},
            "Give the stage",
        ),
        ("mask", {"pruning": {"method": "ActivationNorm"}}, "Give the stage"),
        ("mask", {}, "Give the stage"),
        ("recover", {"recovery": {"fineTune": ON}}, "Lower spec.recovery.fineTune.microBatchSize"),
        ("recover", {"recovery": {"fineTune": {**ON, "microBatchSize": 1}}}, "Give the stage"),
        ("recover", {}, "Give the stage"),
        ("reference", {}, "Give the stage more memory"),
        ("evaluate", {}, "Give the stage more memory"),
    ],
)
def test_only_a_setting_that_can_be_lowered_is_named(
    tmp_path: Path, stage: str, sections: dict[str, object], hint: str
) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        run(tmp_path, stage, MemoryError(), **sections)
    assert caught.value.hint.startswith(hint)


def test_a_missing_package_is_wrong_input_and_a_defect_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The Python package protobuf can't be imported"):
        run(tmp_path, "score", ModuleNotFoundError("No module named 'protobuf'", name="protobuf"))
    with pytest.raises(ImportError):
        run(tmp_path, "score", ImportError("cannot import x", name="persona_jobs.models"))
