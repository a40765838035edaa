"""The training loop shared by mask learning and fine-tuning: Adam, cosine, early stop, resume.

All randomness is a function of the seed and the step, and the checkpoint holds everything else, so
a run that was stopped and resumed ends with the same numbers as one that was not.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..dataset import CurvePoint
from .schedule import EarlyStop, cosine

STATE_FILE = "state.json"
TENSORS_FILE = "state.safetensors"


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a run.

    Attributes:
        steps: optimizer steps at most.
        learning_rate: Adam's peak step size.
        beta1: Adam's first-moment decay.
        beta2: Adam's second-moment decay.
        evaluate_every: steps between evaluations of the held-out loss.
        patience: evaluations without improvement after which to stop.
        warmup: steps of linear warm-up.
    """

    steps: int
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.98
    evaluate_every: int = 10
    patience: int = 5
    warmup: int = 0


class Control(Protocol):
    """Progress and interruption of a run, as its caller wants them."""

    def step_done(self) -> None:
        """Called after every step."""

    @property
    def save_due(self) -> bool:
        """Whether the state is to be saved now."""

    def checkpoint(self, write: Callable[[Path], None]) -> None:
        """Save the state with `write(directory)`; raises if the run is to stop."""


class NoControl:
    """Runs to the end without checkpoints."""

    save_due = False

    def step_done(self) -> None:
        """Ignore it."""

    def checkpoint(self, write: Callable[[Path], None]) -> None:
        """Ignore it."""


class _Scalars(BaseModel):
    step: int
    best: float
    best_step: int
    waited: int
    curve: list[CurvePoint]


@dataclass
class Loop:
    """A resumable run over named parameters.

    Attributes:
        parameters: leaf tensors that are trained, in float32.
        settings: the run's settings.
        curve: losses so far.
        best: copy of the parameters at the lowest held-out loss.
        step: finished steps.
    """

    parameters: dict[str, Tensor]
    settings: LoopSettings
    curve: list[CurvePoint] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        self._stop = EarlyStop(self.settings.patience)
        self._optimizer = torch.optim.Adam(
            list(self.parameters.values()),
            lr=self.settings.learning_rate,
            betas=(self.settings.beta1, self.settings.beta2),
        )
        for parameter in self.parameters.values():
            # Made here rather than at the first step, so that fresh and resumed runs agree.
            self._optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @property
    def best_step(self) -> int:
        """Step of the lowest held-out loss."""
        return self._stop.best_step

    @property
    def best_loss(self) -> float:
        """Lowest held-out loss."""
        return self._stop.best

    @property
    def finished(self) -> bool:
        """Whether all steps are done or patience has run out."""
        return self.step >= self.settings.steps or self._stop.exhausted

    def run(
        self,
        gradient: Callable[[int], float],
        held_out: Callable[[], float],
        control: Control | None = None,
    ) -> None:
        """Run to the end, or until `control.checkpoint` raises.

        Args:
            gradient: adds the gradient of the given step to the parameters and returns its mean
                loss.
            held_out: the held-out loss of the parameters as they are.
            control: progress and interruption.
        """
        control = control or NoControl()
        if not self.curve:
            self._record(CurvePoint(step=0, validation_loss=held_out()))
        settings = self.settings
        while not self.finished:
            rate = cosine(self.step, settings.steps, settings.learning_rate, warmup=settings.warmup)
            self._optimizer.param_groups[0]["lr"] = rate
            self._optimizer.zero_grad(set_to_none=True)
            loss = gradient(self.step)
            self._optimizer.step()
            self.step += 1
            due = self.step % settings.evaluate_every == 0 or self.step == settings.steps
            self._record(
                CurvePoint(
                    step=self.step,
                    train_loss=loss,
                    validation_loss=held_out() if due else None,
                    learning_rate=rate,
                )
            )
            control.step_done()
            if not self.finished and control.save_due:
                control.checkpoint(self.write)

    def _record(self, point: CurvePoint) -> None:
        self.curve.append(point)
        if point.validation_loss is not None and self._stop.update(
            point.validation_loss, point.step
        ):
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}

    def write(self, directory: Path) -> None:
        """Write the state into `directory`."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state = self._optimizer.state[parameter]
            tensors[f"parameter/{name}"] = parameter.detach()
            tensors[f"best/{name}"] = self.best[name]
            tensors[f"exp_avg/{name}"] = state["exp_avg"]
            tensors[f"exp_avg_sq/{name}"] = state["exp_avg_sq"]
        save_file({n: t.contiguous().cpu() for n, t in tensors.items()}, directory / TENSORS_FILE)
        scalars = _Scalars(
            step=self.step,
            best=self._stop.best,
            best_step=self._stop.best_step,
            waited=self._stop.waited,
            curve=self.curve,
        )
        (directory / STATE_FILE).write_text(json.dumps(scalars.model_dump()), encoding="utf-8")

    def read(self, directory: Path) -> None:
        """Go on from a state that `write` wrote.

        Raises:
            ValueError: the state does not fit these parameters.
        """
        scalars = _Scalars.model_validate_json((directory / STATE_FILE).read_text("utf-8"))
        tensors = load_file(directory / TENSORS_FILE)
        for name, parameter in self.parameters.items():
            state = self._optimizer.state[parameter]
            stored = {
                part: tensors.get(f"{part}/{name}")
                for part in ("parameter", "best", "exp_avg", "exp_avg_sq")
            }
            if any(t is None or t.shape != parameter.shape for t in stored.values()):
                raise ValueError(f"the checkpoint doesn't fit parameter {name}")
            with torch.no_grad():
                parameter.copy_(stored["parameter"])
                state["exp_avg"].copy_(stored["exp_avg"])
                state["exp_avg_sq"].copy_(stored["exp_avg_sq"])
                state["step"].fill_(scalars.step)
            self.best[name] = stored["best"].to(parameter.device)
        self.step, self.curve = scalars.step, scalars.curve
        self._stop.best, self._stop.best_step = scalars.best, scalars.best_step
        self._stop.waited = scalars.waited
