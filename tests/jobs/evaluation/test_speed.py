from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from persona_jobs.evaluation import speed
from persona_jobs.evaluation.speed import Runnable, measure
from support.tiny import tiny_model


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Changes the module's constants."""

    def change(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setattr(speed, name.upper(), value)

    return change


def nothing() -> None:
    pass


def test_models_alternate_and_run_in_their_context(setting: Any):
    setting(min_rounds=3, max_rounds=3, prompt_tokens=16, decode_tokens=4)
    order: list[str] = []

    @contextmanager
    def marked(name: str) -> Iterator[None]:
        order.append(name)
        yield

    models = {
        "a": Runnable(tiny_model(), lambda: marked("a")),
        "b": Runnable(tiny_model(intermediate_size=32), lambda: marked("b")),
    }
    speeds = measure(models, before_each=nothing)
    assert order == ["a", "b"] * 4  # the first pair warms up
    assert all(s.prefill > 0 and s.decode > 0 and s.rounds == 3 for s in speeds.values())


def test_the_speed_is_the_median_with_the_slowest_and_the_fastest_round(
    setting: Any, monkeypatch: pytest.MonkeyPatch
):
    setting(min_rounds=3, max_rounds=3, prompt_tokens=16, decode_tokens=4)
    seconds = iter([(9.0, 9.0), (2.0, 1.0), (1.0, 4.0), (4.0, 2.0)])  # the first warms up
    clock, reading = [0.0], []

    def now(_: torch.device) -> float:
        if not reading:
            prefill, decode = next(seconds)
            reading.extend([clock[0] + prefill, clock[0] + prefill + decode])
            return clock[0]
        clock[0] = reading.pop(0)
        return clock[0]

    monkeypatch.setattr(speed, "_now", now)
    found = measure({"a": Runnable(tiny_model())}, before_each=nothing)["a"]
    assert (found.prefill, found.prefill_range) == (8.0, (4.0, 16.0))
    assert (found.decode, found.decode_range) == (2.0, (1.0, 4.0))


def test_time_budget_ends_the_rounds(setting: Any):
    setting(min_rounds=2, max_rounds=1000, budget_seconds=0.0, prompt_tokens=8, decode_tokens=2)
    speeds = measure({"a": Runnable(tiny_model())}, before_each=nothing)
    assert speeds["a"].rounds == 2


def test_prompt_is_shortened_to_the_context(setting: Any):
    setting(min_rounds=1, max_rounds=1, prompt_tokens=50, decode_tokens=4)
    model = tiny_model(max_position_embeddings=24)
    lengths = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    measure({"a": Runnable(model)}, before_each=nothing)
    assert max(lengths) == 20


def test_an_exception_before_a_turn_ends_the_measurement():
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        measure({"a": Runnable(tiny_model())}, before_each=stop)


def test_measurement_leaves_no_gradient(setting: Any):
    setting(min_rounds=1, max_rounds=1, prompt_tokens=4, decode_tokens=1)
    model = tiny_model().requires_grad_(True)
    measure({"a": Runnable(model)}, before_each=nothing)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
