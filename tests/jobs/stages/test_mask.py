"""The mask stage: its methods, and interruption in each of its parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from persona_jobs.api import PersonaModelSpec
from persona_jobs.dataset import Example, ScoredQuery, generic_split, write_jsonl
from persona_jobs.errors import StageInterruptedError
from persona_jobs.mask_learning.optimal_brain_surgeon import OptimalBrainSurgeon
from persona_jobs.models import mask_file
from persona_jobs.models.compute import resolve
from persona_jobs.models.loading import load
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.models.topk import top_k_mask
from persona_jobs.pipeline.context import SilentProgress, StageContext, StopFlag
from persona_jobs.pipeline.graph import plan
from persona_jobs.recovery.streams import WeightedSet
from persona_jobs.stages import mask, recovery_settings
from persona_jobs.store import StageArtifacts, StageManifest, open_store
from persona_jobs.training.tokens import tokenize
from support.tiny import tiny_checkpoint

PERSONA = "You are a captain."
SURGEON = {"method": "OptimalBrainSurgeon"}
LEARNING = {"steps": 6, "batchSize": 4, "evaluateEvery": 2, "patience": 100, "learningRate": "0.3"}
FROM_SURGEON = {
    "method": "StraightThrough",
    "straightThrough": {**LEARNING, "initialization": "OptimalBrainSurgeon", "scales": True},
}
GENERIC = [
    ScoredQuery(query=f"Name {n} things.", answer="One, two.", score=0.1, rank=n + 1, kept=False)
    for n in range(12)
]
FILES = ("mask.safetensors", "scores.safetensors", "curve.jsonl")


def examples(count: int) -> list[Example]:
    queries = [f"Question {n}: {'why ' * (n % 4)}so?" for n in range(count)]
    return [Example.of(PERSONA, query, f"Aye {query[::-1]}") for query in queries]


class StopIn(SilentProgress):
    """Requests a stop in one part of the stage, and records what the stage notes."""

    def __init__(self, stop: StopFlag, part: str | None, after: int) -> None:
        self.notes: list[str] = []
        self._stop, self._part, self._left = stop, part, after
        self._now = ""

    def begin(self, what: str, total: int) -> None:
        self._now = what

    def advance(self, count: int = 1) -> None:
        if self._now == self._part:
            self._left -= count
            if self._left == 0:
                self._stop.request()

    def note(self, message: str) -> None:
        self.notes.append(message)


Start = Callable[..., StageContext]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tiny_checkpoint(directory, intermediate_size=64)
    return directory


@pytest.fixture
def start(tmp_path: Path, base: Path) -> Start:
    """Contexts of the mask stage in a named store, each like a new process."""

    def new(store: str, pruning: dict[str, Any], part: str | None = None, after: int = 1) -> Any:
        spec = PersonaModelSpec.model_validate(
            {
                "persona": {"text": PERSONA},
                "baseModel": {"uri": f"file://{base}"},
                "compute": {"device": "CPU", "dtype": "Float32"},
                "pruning": {"sparsityPercent": 50, **pruning},
            }
        )
        artifacts = StageArtifacts(open_store(f"file://{tmp_path}/{store}"), tmp_path / "cache")
        stages = {stage.name: stage for stage in plan(spec)}
        publish(artifacts, tmp_path, "rewrite", stages["rewrite"].key)
        publish(artifacts, tmp_path, "score", stages["score"].key)
        number = len(list(tmp_path.glob("output-*")))
        output, scratch = tmp_path / f"output-{number}", tmp_path / f"scratch-{number}"
        output.mkdir()
        scratch.mkdir()
        stop = StopFlag()
        return StageContext(
            spec=spec,
            planned=stages["mask"],
            artifacts=artifacts,
            output=output,
            scratch=scratch,
            cache=tmp_path / "cache",
            progress=StopIn(stop, part, after),
            stop=stop,
        )

    return new


def publish(artifacts: StageArtifacts, directory: Path, stage: str, key: str) -> None:
    if artifacts.manifest(stage, key) is not None:
        return
    made = directory / f"{stage}-files"
    made.mkdir(exist_ok=True)
    if stage == "score":
        write_jsonl(made / "queries.jsonl", GENERIC)
    else:
        write_jsonl(made / "train.jsonl", examples(8))
        # Seen in training too, so that learning surely improves them.
        write_jsonl(made / "validation.jsonl", examples(6))
        write_jsonl(made / "test.jsonl", examples(10)[8:])
    artifacts.publish(StageManifest(stage=stage, stage_version=1, key=key), made)


def contents(context: StageContext) -> dict[str, bytes]:
    return {name: (context.output / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("pruning", "part", "after", "position"),
    [
        (SURGEON, "ranked layers", 1, "layer 1 of 3"),
        (SURGEON, "ranked layers", 2, "layer 2 of 3"),
        (FROM_SURGEON, "ranked layers", 2, "layer 2 of 3"),
        (FROM_SURGEON, "mask steps", 3, "step 3 of 6"),
    ],
)
def test_a_stopped_stage_resumes_to_the_same_result(start, pruning, part, after, position):
    whole = start("whole", pruning)
    expected = mask.run(whole)
    with pytest.raises(StageInterruptedError):
        mask.run(start("stopped", pruning, part, after))
    resumed = start("stopped", pruning)
    outcome = mask.run(resumed)
    assert f"resuming after {position}" in resumed.progress.notes
    assert contents(resumed) == contents(whole)
    assert outcome.results == expected.results


def test_the_surgeons_mask_comes_from_the_weighted_data(start, base, tmp_path):
    context = start("surgeon", {**SURGEON, "optimalBrainSurgeon": {"ridge": "2"}})
    outcome = mask.run(context)
    model, tokenizer = load(base, resolve("CPU", "Float32"))
    train = {
        "persona": tokenize(tokenizer, examples(8), max_tokens=1024),
        "generic": tokenize(tokenizer, generic_examples(), max_tokens=1024),
    }
    sets = [WeightedSet(train["persona"], 0.75), WeightedSet(train["generic"], 0.25)]
    surgeon = OptimalBrainSurgeon(model, kept_channels=32, ridge=2.0)
    expected = top_k_mask(surgeon.run(sets, scratch=tmp_path), 32)
    saved = mask_file.load(context.output / "mask.safetensors")
    assert torch.equal(saved.bits, expected)
    assert saved.scales is None
    scores = load_file(context.output / "scores.safetensors")["z"]
    assert torch.equal(scores.argsort(), surgeon.importance.argsort())
    assert (outcome.results["steps"], outcome.results["channelsChanged"]) == (0, 0)


def generic_examples() -> list[Example]:
    return generic_split(GENERIC)["train"]


def test_learned_factors_are_stored_and_folded_in(start, base):
    settings = {**LEARNING, "learningRate": "0.05", "scales": True}
    context = start("scales", {"method": "StraightThrough", "straightThrough": settings})
    mask.run(context)
    saved = mask_file.load(context.output / "mask.safetensors")
    assert (saved.scales[saved.bits] != 1).any()
    assert (saved.scales[~saved.bits] == 1).all()
    model, _ = load(base, resolve("CPU", "Float32"))
    ids = torch.arange(20).unsqueeze(0)
    with masked(model, saved.bits * saved.scales):
        expected = model(ids).logits
    sliced = sliced_copy(model, saved.bits, scales=saved.scales)
    assert torch.allclose(sliced(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_the_fine_tunings_length_does_not_change_the_surgeons_data(start, monkeypatch):
    """It is no part of the mask's key."""
    monkeypatch.setattr(recovery_settings, "MAX_TRAIN_EXAMPLES", 4)
    made = []
    for number, enabled in enumerate((True, False)):
        context = start(f"tuning-{number}", SURGEON)
        recovery = context.spec.recovery
        tuning = recovery.fine_tune.model_copy(update={"enabled": enabled, "steps": 500})
        changed = recovery.model_copy(update={"fine_tune": tuning})
        context.spec = context.spec.model_copy(update={"recovery": changed})
        mask.run(context)
        made.append(contents(context))
    assert made[0] == made[1]
