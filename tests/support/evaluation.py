"""A store in which all stages before the evaluation are done."""

from pathlib import Path
from typing import Any

import torch

from persona_jobs.api import PersonaModelSpec
from persona_jobs.dataset import CurvePoint, Example, ReferencePersona, ScoredQuery, write_jsonl
from persona_jobs.evaluation.samples import SampleLine
from persona_jobs.models import mask_file
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.pipeline.context import StageContext, StageOutcome
from persona_jobs.pipeline.graph import MEASUREMENTS, plan
from persona_jobs.pipeline.results import EvaluationMetrics
from persona_jobs.pipeline.runner import planned_stage
from persona_jobs.stages.evaluate import stage as evaluate
from persona_jobs.store import StageArtifacts, StageManifest, open_store
from support.report import recovery
from support.tiny import save_checkpoint, tiny_model, tiny_tokenizer

PERSONA = "You are <script>alert('Mara')</script>, who talks of the sea."
REFERENCES = ["You are a monk.", "You are a strict governess.", PERSONA]
WIDTH = 40
NO_RECOVERY = {part: {"enabled": False} for part in ("refit", "reconstruct", "fineTune")}
RECOVERY = recovery().model_dump(mode="json", by_alias=True)


def _mask() -> torch.Tensor:
    scores = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 64, dtype=torch.bool)
    return mask.scatter_(1, scores.argsort(dim=1)[:, :WIDTH], True)


def example(number: int) -> Example:
    return Example.of(PERSONA, f"Question {number}, sailor?", f"The sea has {number} answers.")


class World:
    """A store in which all stages before the evaluation are done."""

    def __init__(self, root: Path, **spec: Any) -> None:
        self.root = root
        self.base = root / "base"
        self.model, self.tokenizer = tiny_model(), tiny_tokenizer()
        if not self.base.exists():
            save_checkpoint(self.model, self.tokenizer, self.base)
        values: dict[str, Any] = {
            "persona": {"text": PERSONA},
            "baseModel": {"uri": self.base.as_uri()},
            "recovery": {
                "refit": {"ridge": "1"},
                "reconstruct": {"enabled": False},
                "fineTune": {"enabled": False},
            },
            "evaluation": {
                "maxQueries": 3,
                "maxAnswerTokens": 8,
                "genericSamples": 4,
                "bootstrapSamples": 100,
            },
            "compute": {"device": "CPU", "dtype": "Float32"},
        }
        self.spec = PersonaModelSpec.model_validate({**values, **spec})
        self.artifacts = StageArtifacts(open_store((root / "store").as_uri()), root / "cache")
        self.wrong_mask = False
        self.held_out = [example(number) for number in range(4)]

    def context(self) -> StageContext:
        for stage in plan(self.spec):
            if stage.name != "evaluate":
                directory = self.root / "made" / stage.name
                directory.mkdir(parents=True, exist_ok=True)
                getattr(self, stage.name)(directory)
                manifest = StageManifest(
                    stage=stage.name,
                    stage_version=stage.version,
                    key=stage.key,
                    metrics=RECOVERY if stage.name == "recover" else {},
                )
                self.artifacts.publish(manifest, directory)
        for name in ("output", "scratch"):
            (self.root / name).mkdir(exist_ok=True)
        return StageContext(
            spec=self.spec,
            planned=planned_stage(self.spec, "evaluate"),
            artifacts=self.artifacts,
            output=self.root / "output",
            scratch=self.root / "scratch",
            cache=self.root / "cache",
        )

    def run(self) -> StageOutcome:
        return evaluate.run(self.context())

    def forget(self) -> None:
        """Remove all measurements, so that the next run measures again."""
        planned = planned_stage(self.spec, "evaluate")
        self.artifacts.clear_state("evaluate", planned.key)
        self.artifacts.clear_state(MEASUREMENTS, planned.inputs["slice"])

    @property
    def metrics(self) -> EvaluationMetrics:
        return EvaluationMetrics.model_validate_json(
            (self.root / "output/metrics.json").read_text()
        )

    @property
    def samples(self) -> list[SampleLine]:
        text = (self.root / "output/samples.jsonl").read_text()
        return [SampleLine.model_validate_json(line) for line in text.splitlines()]

    @property
    def report(self) -> str:
        return (self.root / "output/report.html").read_text()

    def reference(self, directory: Path) -> None:
        personas = [ReferencePersona(name=t[:12], text=t) for t in REFERENCES]
        write_jsonl(directory / "personas.jsonl", personas)

    def score(self, directory: Path) -> None:
        write_jsonl(
            directory / "queries.jsonl",
            [
                ScoredQuery(
                    query=f"Query {rank}?", answer=f"{rank}.", score=1 / rank, rank=rank,
                    kept=rank <= 8,
                )
                for rank in range(1, 21)
            ],
        )  # fmt: skip

    def rewrite(self, directory: Path) -> None:
        write_jsonl(directory / "train.jsonl", [example(number) for number in range(10, 18)])
        write_jsonl(directory / "validation.jsonl", [example(20)])
        write_jsonl(directory / "test.jsonl", self.held_out)

    def mask(self, directory: Path) -> None:
        bits = _mask().roll(5, dims=1) if self.wrong_mask else _mask()
        mask_file.save(
            directory / "mask.safetensors", mask_file.Mask(bits, self.spec.base_model.uri)
        )
        curve = [CurvePoint(step=s, train_loss=2 / (s + 1), validation_loss=1.0) for s in range(3)]
        write_jsonl(directory / "curve.jsonl", curve)

    def recover(self, directory: Path) -> None:
        write_jsonl(directory / "curve.jsonl", [])

    def slice(self, directory: Path) -> None:
        model = sliced_copy(self.model, _mask())
        if self.spec.recovery.refit.enabled:
            with torch.no_grad():
                for layer in ffn_layers(model):
                    layer.down.weight.mul_(1.1)
        save_checkpoint(model, self.tokenizer, directory, system_prompt=PERSONA)
