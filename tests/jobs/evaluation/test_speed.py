from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from persona_jobs.evaluation.speed import Runnable, measure
from support.tiny import tiny_model


def test_models_alternate_and_run_in_their_context():
    order: list[str] = []

    @contextmanager
    def marked(name: str) -> Iterator[None]:
        order.append(name)
        yield

    models = {
        "a": Runnable(tiny_model(), lambda: marked("a")),
        "b": Runnable(tiny_model(intermediate_size=32), lambda: marked("b")),
    }
    speeds = measure(models, min_rounds=3, max_rounds=3, prompt_tokens=16, decode_tokens=4)
    assert order == ["a", "b"] * 4  # the first pair warms up
    assert all(s.prefill > 0 and s.decode > 0 and s.rounds == 3 for s in speeds.values())


def test_time_budget_ends_the_rounds():
    speeds = measure(
        {"a": Runnable(tiny_model())},
        min_rounds=2,
        max_rounds=1000,
        budget_seconds=0.0,
        prompt_tokens=8,
        decode_tokens=2,
    )
    assert speeds["a"].rounds == 2


def test_prompt_is_shortened_to_the_context():
    model = tiny_model(max_position_embeddings=24)
    lengths = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    measure({"a": Runnable(model)}, min_rounds=1, max_rounds=1, prompt_tokens=50, decode_tokens=4)
    assert max(lengths) == 20


def test_what_is_called_before_each_turn_can_end_it():
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        measure({"a": Runnable(tiny_model())}, before_each=stop)


def test_speed_leaves_no_gradient():
    model = tiny_model().requires_grad_(True)
    measure({"a": Runnable(model)}, min_rounds=1, max_rounds=1, prompt_tokens=4, decode_tokens=1)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
