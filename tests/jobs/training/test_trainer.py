"""The training loop: early stop, best parameters, exact resume."""

import pytest
import torch

from persona_jobs.errors import StageInterruptedError
from persona_jobs.training.trainer import Loop, LoopSettings
from support.training import StopAfter

TARGET = torch.tensor([1.0, -2.0, 0.5])
SETTINGS = LoopSettings(steps=12, learning_rate=0.3, evaluate_every=3, patience=10)


def run(loop, control=None):
    parameter = loop.parameters["x"]

    def gradient(step):
        scale = 1 + step % 3  # differs by step, as batches do
        parameter.grad = scale * (parameter.detach() - TARGET)
        return float((parameter.detach() - TARGET).square().sum())

    loop.run(gradient, lambda: float((parameter.detach() - TARGET).square().sum()), control)
    return loop


@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_a_resumed_run_ends_with_the_same_numbers(tmp_path, stop_after):
    whole = run(Loop({"x": torch.zeros(3)}, SETTINGS))
    interrupted = Loop({"x": torch.zeros(3)}, SETTINGS)
    with pytest.raises(StageInterruptedError):
        run(interrupted, StopAfter(stop_after, tmp_path))
    resumed = Loop({"x": torch.zeros(3)}, SETTINGS)
    resumed.read(tmp_path)
    assert resumed.step == stop_after
    run(resumed)
    assert torch.equal(resumed.parameters["x"], whole.parameters["x"])
    assert torch.equal(resumed.best["x"], whole.best["x"])
    assert resumed.curve == whole.curve
    assert resumed.best_loss == whole.best_loss < whole.curve[0].validation_loss


def test_stops_early_and_keeps_the_best():
    loop = Loop({"x": torch.zeros(3)}, LoopSettings(50, 0.3, evaluate_every=1, patience=3))
    losses = iter([5.0, 4.0, 6.0, 6.0, 6.0])
    seen = []

    def gradient(step):
        seen.append(loop.parameters["x"].clone())
        loop.parameters["x"].grad = torch.ones(3)
        return 0.0

    loop.run(gradient, lambda: next(losses))
    assert loop.step == 4
    assert loop.best_step == 1
    assert torch.equal(loop.best["x"], seen[1])


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    run(Loop({"x": torch.zeros(3)}, SETTINGS)).write(tmp_path)
    with pytest.raises(ValueError, match="doesn't fit"):
        Loop({"x": torch.zeros(4)}, SETTINGS).read(tmp_path)


def test_no_steps_measures_the_start_only():
    loop = run(Loop({"x": torch.zeros(3)}, LoopSettings(steps=0, learning_rate=0.1)))
    assert [point.step for point in loop.curve] == [0]
    assert torch.equal(loop.best["x"], torch.zeros(3))
