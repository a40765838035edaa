"""The two parts of the mask stage as one resumable run: a ranking, then learning from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..mask_learning.learn import SCORES
from ..mask_learning.optimal_brain_surgeon import OptimalBrainSurgeon
from ..training.trainer import Resumable, Trainer
from .control import StageControl

INITIAL_FILE = "initial.safetensors"


@dataclass
class MaskRun:
    """What the stage's resume state belongs to.

    Attributes:
        surgeon: the ranking that takes long enough to be resumed, or None.
        trainer: the learning.
        initial: scores `[n_layers, d_ff]` that the learning started from; None before it starts.
    """

    surgeon: OptimalBrainSurgeon | None
    trainer: Trainer
    initial: Tensor | None = field(default=None, init=False)

    @property
    def position(self) -> str:
        """How far the run is."""
        if self.initial is None and self.surgeon is not None:
            return self.surgeon.position
        return self.trainer.position

    def begin_training(self, scores: Tensor) -> None:
        """Start the learning from `scores`."""
        self.initial = scores.cpu()
        with torch.no_grad():
            self.trainer.parameters[SCORES].copy_(scores)

    def load_state(self, directory: Path) -> None:
        """Resume from a state of either part.

        Raises:
            ValueError: the state does not fit.
        """
        if (directory / INITIAL_FILE).exists():
            self.trainer.load_state(directory)
            self.initial = load_file(directory / INITIAL_FILE)["initial"]
        elif self.surgeon is not None:
            self.surgeon.load_state(directory)
        else:
            raise ValueError("it is from another part of the stage")


class TrainingControl:
    """The stage's control during learning: its states hold the initial scores too."""

    def __init__(self, control: StageControl, run: MaskRun) -> None:
        self._control = control
        self._run = run

    def resume(self, run: Resumable) -> bool:
        """Load the newest saved state."""
        return self._control.resume(run)

    def step_done(self) -> None:
        """Report one finished step."""
        self._control.step_done()

    @property
    def save_due(self) -> bool:
        """Whether the state is to be saved now."""
        return self._control.save_due

    def save_state(self, write: Callable[[Path], None]) -> None:
        """Save the trainer's state and the initial scores."""

        def write_both(directory: Path) -> None:
            write(directory)
            if self._run.initial is not None:
                save_file({"initial": self._run.initial}, directory / INITIAL_FILE)

        self._control.save_state(write_both)
