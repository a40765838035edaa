"""Training runs for tests: a config, and controls that stop and resume."""

from typing import Any

from persona_jobs.errors import StageInterruptedError
from persona_jobs.training.trainer import NoControl, TrainingConfig


def training_config(steps: int, **changes: Any) -> TrainingConfig:
    """A config of `steps` steps with small batches."""
    values: dict[str, Any] = {
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 0.3,
        "beta2": 0.98,
        "evaluate_every": 3,
        "patience": 10,
        "seed": 3,
    }
    return TrainingConfig(steps=steps, **{**values, **changes})


class StopAfter(NoControl):
    """A control that saves the state after `steps` steps and stops there."""

    def __init__(self, steps, directory):
        self.left, self.directory = steps, directory

    def step_done(self):
        self.left -= 1

    @property
    def save_due(self):
        return self.left == 0

    def save_state(self, write):
        write(self.directory)
        if self.left <= 0:
            raise StageInterruptedError("stopped")


class ResumeFrom(NoControl):
    """A control that resumes from a saved state."""

    def __init__(self, directory):
        self.directory = directory

    def resume(self, run):
        run.load_state(self.directory)
        return True
