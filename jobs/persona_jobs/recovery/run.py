"""The state of a recovery: what is finished, what is under way, and how both are resumed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..dataset import CurvePoint
from ..pipeline.results import HeldOutKl, PartName, RecoveryPart
from ..training.trainer import Trainer

STATE_FILE = "recovery.json"
TENSORS_FILE = "recovery.safetensors"
Weights = dict[str, Tensor]
MakeTrainer = Callable[[Weights, float], Trainer]


class _Saved(BaseModel):
    start: HeldOutKl | None
    parts: list[RecoveryPart]
    blocks: int
    settings: dict[str, Any]
    curve: list[CurvePoint]
    learning_rate: float | None
    seconds: float


@dataclass
class RecoveryRun:
    """A recovery under way.

    Attributes:
        make_trainer: makes the fine-tuning's trainer from weights and a learning rate.
        start: divergence of the pruned model before any part.
        parts: finished parts.
        weights: float32 weights, by name, that the parts which helped have changed.
        fitted: the same of the part under way, as far as it is.
        candidates: further results of the part under way, by the setting that they belong to; the
            best of them replaces `fitted`.
        blocks: blocks that it has fitted.
        settings: settings that it has chosen by measuring.
        trainer: the fine-tuning under way.
        curve: losses of a finished fine-tuning.
        seconds: time spent on the part under way before the present process.
    """

    make_trainer: MakeTrainer
    start: HeldOutKl | None = None
    parts: list[RecoveryPart] = field(default_factory=list)
    weights: Weights = field(default_factory=dict)
    fitted: Weights = field(default_factory=dict)
    candidates: dict[str, Weights] = field(default_factory=dict)
    blocks: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    trainer: Trainer | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def position(self) -> str:
        """How far the recovery is."""
        if self.trainer is not None:
            return f"{self.trainer.position} of the fine-tuning"
        done = " and ".join(part.name for part in self.parts)
        blocks = f"{self.blocks} blocks" if self.blocks or not done else ""
        return " and ".join(filter(None, (done, blocks)))

    @property
    def present(self) -> HeldOutKl | None:
        """Divergence of the model with all that helped so far."""
        return next((part.after for part in reversed(self.parts) if part.kept), self.start)

    def finish(
        self, name: PartName, *, kept: bool, before: HeldOutKl, after: HeldOutKl, seconds: float
    ) -> None:
        """Take the result of the part under way, or leave it out if it doesn't help."""
        if kept:
            self.weights |= self.fitted
        self.parts.append(
            RecoveryPart(
                name=name,
                kept=kept,
                before=before,
                after=after,
                seconds=seconds,
                settings=self.settings,
            )
        )
        self.fitted, self.candidates, self.settings, self.blocks = {}, {}, {}, 0
        self.trainer, self.seconds = None, 0.0

    def save_state(self, directory: Path) -> None:
        """Write everything that a resumed recovery needs into `directory`."""
        groups = {"kept": self.weights, "fitted": self.fitted, **self.candidates}
        tensors = {f"{g}/{name}": t for g, weights in groups.items() for name, t in weights.items()}
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            directory / TENSORS_FILE,
        )
        rate = None if self.trainer is None else self.trainer.config.learning_rate
        saved = _Saved(
            start=self.start,
            parts=self.parts,
            blocks=self.blocks,
            settings=self.settings,
            curve=self.curve,
            learning_rate=rate,
            seconds=self.seconds,
        )
        (directory / STATE_FILE).write_text(json.dumps(saved.model_dump()), encoding="utf-8")
        if self.trainer is not None:
            self.trainer.save_state(directory)

    def load_state(self, directory: Path) -> None:
        """Resume from a state that `save_state` wrote.

        Raises:
            ValueError: the state does not fit this recovery.
        """
        saved = _Saved.model_validate_json((directory / STATE_FILE).read_text("utf-8"))
        tensors = load_file(directory / TENSORS_FILE)
        groups: dict[str, Weights] = {}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor
        weights, fitted = groups.pop("kept", {}), groups.pop("fitted", {})
        trainer = None
        if saved.learning_rate is not None:
            trainer = self.make_trainer(weights, saved.learning_rate)
            trainer.load_state(directory)
        self.start, self.parts, self.trainer = saved.start, saved.parts, trainer
        self.weights, self.fitted, self.candidates = weights, fitted, groups
        self.blocks = saved.blocks
        self.settings, self.curve, self.seconds = saved.settings, saved.curve, saved.seconds


def put(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the model's parameters of the same names, in the model's number format."""
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
