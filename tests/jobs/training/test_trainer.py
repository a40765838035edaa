"""The training loop: early stop, best parameters, exact resume."""

import pytest
import torch
from safetensors.torch import load_file

from persona_jobs.errors import InputError, StageInterruptedError
from persona_jobs.training.trainer import NoControl, Trainer
from support.training import StopAfter, training_config

TARGET = torch.tensor([1.0, -2.0, 0.5])
CONFIG = training_config(steps=12)


def run(trainer, control=None):
    parameter = trainer.parameters["x"]

    def gradient(step):
        scale = 1 + step % 3  # differs by step, as batches do
        parameter.grad = scale * (parameter.detach() - TARGET)
        return float((parameter.detach() - TARGET).square().sum())

    trainer.run(
        gradient,
        lambda: float((parameter.detach() - TARGET).square().sum()),
        control or NoControl(),
    )
    return trainer


@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_a_resumed_run_ends_with_the_same_numbers(tmp_path, stop_after):
    whole = run(Trainer({"x": torch.zeros(3)}, CONFIG))
    interrupted = Trainer({"x": torch.zeros(3)}, CONFIG)
    with pytest.raises(StageInterruptedError):
        run(interrupted, StopAfter(stop_after, tmp_path))
    resumed = Trainer({"x": torch.zeros(3)}, CONFIG)
    resumed.load_state(tmp_path)
    assert resumed.step == stop_after
    run(resumed)
    assert torch.equal(resumed.parameters["x"], whole.parameters["x"])
    assert torch.equal(resumed.best["x"], whole.best["x"])
    assert resumed.curve == whole.curve
    assert resumed.best_loss == whole.best_loss < whole.curve[0].validation_loss


class InterruptedIn:
    """Gradients and losses of `run`, one of which is interrupted in its nth call."""

    def __init__(self, trainer, part, call):
        self.trainer, self.part, self.left = trainer, part, call

    def _count(self, part):
        self.left -= part == self.part
        if self.left == 0:
            raise StageInterruptedError("stopped")

    def gradient(self, step):
        parameter = self.trainer.parameters["x"]
        parameter.grad = (1 + step % 3) * (parameter.detach() - TARGET)
        self._count("gradient")
        return float((parameter.detach() - TARGET).square().sum())

    def loss(self):
        self._count("loss")
        return float((self.trainer.parameters["x"].detach() - TARGET).square().sum())


@pytest.mark.parametrize(
    ("part", "call", "step"),
    [("gradient", 1, 0), ("gradient", 5, 4), ("loss", 1, 0), ("loss", 3, 6)],
)
def test_a_run_that_is_interrupted_within_a_step_loses_only_that_step(tmp_path, part, call, step):
    whole = run(Trainer({"x": torch.zeros(3)}, CONFIG))
    interrupted = Trainer({"x": torch.zeros(3)}, CONFIG)
    work = InterruptedIn(interrupted, part, call)
    with pytest.raises(StageInterruptedError):
        interrupted.run(work.gradient, work.loss, StopAfter(100, tmp_path))
    resumed = Trainer({"x": torch.zeros(3)}, CONFIG)
    resumed.load_state(tmp_path)
    assert resumed.step == step
    run(resumed)
    assert torch.equal(resumed.parameters["x"], whole.parameters["x"])
    assert torch.equal(resumed.best["x"], whole.best["x"])
    assert resumed.curve == whole.curve


def test_a_state_holds_the_best_parameters_only_where_they_differ(tmp_path):
    trainer = Trainer({"x": torch.zeros(3)}, CONFIG)
    with pytest.raises(StageInterruptedError):
        run(trainer, StopAfter(6, tmp_path))
    stored = {name.partition("/")[0] for name in load_file(tmp_path / "state.safetensors")}
    assert trainer.best_step == trainer.step == 6
    assert stored == {"parameter", "exp_avg", "exp_avg_sq"}


def test_training_stops_early_and_keeps_the_best_parameters():
    trainer = Trainer({"x": torch.zeros(3)}, training_config(50, evaluate_every=1, patience=3))
    losses = iter([5.0, 4.0, 6.0, 6.0, 6.0])
    seen = []

    def gradient(step):
        seen.append(trainer.parameters["x"].clone())
        trainer.parameters["x"].grad = torch.ones(3)
        return 0.0

    trainer.run(gradient, lambda: next(losses), NoControl())
    assert trainer.step == 4
    assert trainer.best_step == 1
    assert torch.equal(trainer.best["x"], seen[1])


def test_a_saved_state_of_other_shapes_is_refused(tmp_path):
    run(Trainer({"x": torch.zeros(3)}, CONFIG)).save_state(tmp_path)
    with pytest.raises(ValueError, match="doesn't fit"):
        Trainer({"x": torch.zeros(4)}, CONFIG).load_state(tmp_path)


def test_without_steps_only_the_start_is_measured():
    trainer = run(Trainer({"x": torch.zeros(3)}, training_config(steps=0)))
    assert [point.step for point in trainer.curve] == [0]
    assert torch.equal(trainer.best["x"], torch.zeros(3))


@pytest.mark.parametrize(
    ("losses", "held_out", "message"),
    [
        ([1.0], [float("nan")], "The loss is nan from the first training step on"),
        ([float("inf")], [1.0], "The loss is inf from the first training step on"),
        ([1.0, 1.0, float("nan")], [1.0] * 9, "The training diverged: the loss is nan at step 3"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training(losses, held_out, message):
    trainer = Trainer({"x": torch.zeros(3)}, training_config(steps=9))
    train, validation = iter(losses), iter(held_out)

    def gradient(_step):
        trainer.parameters["x"].grad = torch.zeros(3)
        return next(train)

    with pytest.raises(InputError, match=message) as caught:
        trainer.run(gradient, lambda: next(validation), NoControl())
    assert caught.value.hint
