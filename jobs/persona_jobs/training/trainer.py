"""The training loop of mask learning and fine-tuning: Adam, cosine schedule, early stop, resume.

All randomness is a function of the seed and the step, and the saved state holds everything else,
so a run that was stopped and resumed ends with the same numbers as one that was not.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..dataset import CurvePoint
from ..errors import InputError, StageInterruptedError
from .schedule import EarlyStopping, cosine_learning_rate

STATE_FILE = "state.json"
TENSORS_FILE = "state.safetensors"
BETA1 = 0.9


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Hyperparameters of a run.

    Attributes:
        steps: optimizer steps at most.
        batch_size: conversations per step.
        micro_batch_size: conversations per forward pass; does not change the result.
        learning_rate: Adam's peak learning rate.
        beta2: Adam's second-moment decay.
        warmup: steps of linear warm-up.
        evaluate_every: steps between evaluations of the held-out loss.
        patience: evaluations without improvement after which to stop.
        seed: decides the batches.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    beta2: float
    warmup: int = 0
    evaluate_every: int
    patience: int
    seed: int


class Resumable(Protocol):
    """Work that can be saved and resumed."""

    @property
    def position(self) -> str:
        """How far it is, such as `step 4 of 10`."""

    def load_state(self, directory: Path) -> None:
        """Resume from the state in `directory`; raises ValueError when it doesn't fit."""


class Control(Protocol):
    """Interruption and resume state of a run, as its caller wants them."""

    def resume(self, run: Resumable) -> bool:
        """Load the newest saved state into the run; returns whether there was one."""

    def step_done(self) -> None:
        """Take note that one more step is done."""

    @property
    def save_due(self) -> bool:
        """Whether the state is to be saved now."""

    def save_state(self, write: Callable[[Path], None]) -> None:
        """Save the state with `write(directory)`; raises if the run is to stop."""


class NoControl:
    """A control that runs to the end and saves nothing."""

    save_due = False

    def resume(self, run: Resumable) -> bool:
        """Start from the beginning."""
        return False

    def step_done(self) -> None:
        """Ignore it."""

    def save_state(self, write: Callable[[Path], None]) -> None:
        """Ignore it."""


class _Scalars(BaseModel):
    step: int
    best: float
    best_step: int
    waited: int
    curve: list[CurvePoint]
    unmeasured: CurvePoint | None = None


@dataclass
class Trainer:
    """A resumable run over named parameters.

    Attributes:
        parameters: leaf tensors that are trained, in float32.
        config: the run's hyperparameters.
        curve: losses so far.
        best: copy of the parameters at the lowest held-out loss.
        step: finished steps.
    """

    parameters: dict[str, Tensor]
    config: TrainingConfig
    curve: list[CurvePoint] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        # The newest point of the curve while its held-out loss is being measured.
        self._unmeasured: CurvePoint | None = None
        self._early_stopping = EarlyStopping(self.config.patience)
        self._optimizer = torch.optim.Adam(
            list(self.parameters.values()),
            lr=self.config.learning_rate,
            betas=(BETA1, self.config.beta2),
        )
        for parameter in self.parameters.values():
            # Made here rather than at the first step, so that fresh and resumed runs agree.
            self._optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @property
    def position(self) -> str:
        """How far the run is."""
        return f"step {self.step} of {self.config.steps}"

    @property
    def best_step(self) -> int:
        """Step of the lowest held-out loss."""
        return self._early_stopping.best_step

    @property
    def best_loss(self) -> float:
        """Lowest held-out loss."""
        return self._early_stopping.best_loss

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the held-out loss has stopped improving."""
        return self.step >= self.config.steps or self._early_stopping.should_stop

    def run(
        self,
        gradient: Callable[[int], float],
        held_out_loss: Callable[[], float],
        control: Control,
    ) -> None:
        """Train to the end, or until `control.save_state` raises.

        Args:
            gradient: adds the gradient of the given step to the parameters and returns the step's
                mean loss.
            held_out_loss: returns the held-out loss of the parameters as they are.
            control: progress and interruption.

        Raises:
            InputError: a loss is not finite.
            StageInterruptedError: `gradient` or `held_out_loss` was interrupted; the state of the
                last whole step is saved.
        """
        if not self.curve and self._unmeasured is None:
            self._unmeasured = CurvePoint(step=0)
        while self._unmeasured is not None or not self.finished:
            try:
                if self._unmeasured is None:
                    self._unmeasured = self._take_step(gradient)
                self._measure(self._unmeasured, held_out_loss)
            except StageInterruptedError:
                control.save_state(self.save_state)
                raise
            if self.step:
                control.step_done()
            if not self.finished and control.save_due:
                control.save_state(self.save_state)

    def _take_step(self, gradient: Callable[[int], float]) -> CurvePoint:
        """Take one step; an exception of `gradient` leaves parameters and moments as they were."""
        config = self.config
        learning_rate = cosine_learning_rate(
            self.step, config.steps, config.learning_rate, warmup=config.warmup
        )
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = gradient(self.step)
        self._optimizer.step()
        self.step += 1
        return CurvePoint(step=self.step, train_loss=loss, learning_rate=learning_rate)

    def _measure(self, point: CurvePoint, held_out_loss: Callable[[], float]) -> None:
        """Add the point to the curve, with the held-out loss where it is due."""
        config = self.config
        if point.step % config.evaluate_every == 0 or point.step == config.steps:
            point = point.model_copy(update={"validation_loss": held_out_loss()})
        self._record(point)
        self._unmeasured = None

    def _record(self, point: CurvePoint) -> None:
        for loss in (point.train_loss, point.validation_loss):
            if loss is not None and not math.isfinite(loss):
                raise _not_finite(loss, point.step)
        self.curve.append(point)
        if point.validation_loss is not None and self._early_stopping.update(
            point.validation_loss, point.step
        ):
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}

    def save_state(self, directory: Path) -> None:
        """Write everything that a resumed run needs into `directory`."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"parameter/{name}"] = parameter.detach()
            if self.step:
                state = self._optimizer.state[parameter]
                tensors[f"exp_avg/{name}"] = state["exp_avg"]
                tensors[f"exp_avg_sq/{name}"] = state["exp_avg_sq"]
            if self.best and not self._at_best:
                tensors[f"best/{name}"] = self.best[name]
        save_file({n: t.contiguous().cpu() for n, t in tensors.items()}, directory / TENSORS_FILE)
        scalars = _Scalars(
            step=self.step,
            best=self._early_stopping.best_loss,
            best_step=self._early_stopping.best_step,
            waited=self._early_stopping.evaluations_since_best,
            curve=self.curve,
            unmeasured=self._unmeasured,
        )
        (directory / STATE_FILE).write_text(json.dumps(scalars.model_dump()), encoding="utf-8")

    @property
    def _at_best(self) -> bool:
        """Whether the parameters are the best ones, so that they need not be stored twice."""
        return bool(self.curve) and self.best_step == self.step

    def load_state(self, directory: Path) -> None:
        """Resume from a state that `save_state` wrote.

        Raises:
            ValueError: the state does not fit these parameters.
        """
        scalars = _Scalars.model_validate_json((directory / STATE_FILE).read_text("utf-8"))
        tensors = load_file(directory / TENSORS_FILE)
        parts = ("parameter", "exp_avg", "exp_avg_sq") if scalars.step else ("parameter",)
        for name, parameter in self.parameters.items():
            for part in parts:
                stored = tensors.get(f"{part}/{name}")
                if stored is None or stored.shape != parameter.shape:
                    raise ValueError(f"the saved state doesn't fit parameter {name}")
        self.step, self.curve, self._unmeasured = scalars.step, scalars.curve, scalars.unmeasured
        self._early_stopping.best_loss = scalars.best
        self._early_stopping.best_step = scalars.best_step
        self._early_stopping.evaluations_since_best = scalars.waited
        for name, parameter in self.parameters.items():
            state = self._optimizer.state[parameter]
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
                if scalars.step:
                    state["exp_avg"].copy_(tensors[f"exp_avg/{name}"])
                    state["exp_avg_sq"].copy_(tensors[f"exp_avg_sq/{name}"])
                state["step"].fill_(scalars.step)
            if self.curve:
                best = tensors.get(f"best/{name}", parameter.detach())
                self.best[name] = best.to(parameter.device, copy=True)


def _not_finite(loss: float, step: int) -> InputError:
    if step <= 1:
        return InputError(
            f"The loss is {loss} from the first training step on: the base model computes no "
            "finite numbers in the number format of compute.dtype",
            hint="Use another base model, or another compute.dtype than the present one",
            subject="spec.baseModel",
        )
    return InputError(
        f"The training diverged: the loss is {loss} at step {step}",
        hint="Lower learningRate in spec.pruning.straightThrough or spec.recovery.fineTune",
    )
