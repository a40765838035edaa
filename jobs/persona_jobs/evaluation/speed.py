"""Prefill and decode speed for a batch of one, with the models measured in alternation.

Alternation spreads other load of the machine over all models; medians drop outliers, and the range
of the rounds shows how much they can be trusted.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch
from transformers import DynamicCache

from ..models.cache_argument import cache_argument
from ..models.compute import device_of

Name = TypeVar("Name", bound=str)
PROMPT_TOKENS = 128
DECODE_TOKENS = 32
MIN_ROUNDS = 3
MAX_ROUNDS = 9
# No further round starts after this time, except the first MIN_ROUNDS.
BUDGET_SECONDS = 8.0


@dataclass(frozen=True)
class Runnable:
    """A model and the context in which it runs, such as a mask.

    Attributes:
        model: the causal language model.
        context: makes the context of one measurement.
    """

    model: Any
    context: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds, and their range.

    Attributes:
        prefill: prompt tokens per second.
        decode: generated tokens per second.
        prefill_range: of the slowest and the fastest round.
        decode_range: of the slowest and the fastest round.
        rounds: measurements of each model.
    """

    prefill: float
    decode: float
    prefill_range: tuple[float, float]
    decode_range: tuple[float, float]
    rounds: int


@torch.no_grad()
def measure(
    models: Mapping[Name, Runnable], *, before_each: Callable[[], None]
) -> dict[Name, Speed]:
    """Measure each model on a synthetic prompt, with the models' plain forward pass.

    After one unmeasured run of each model, every round runs each model once. The rounds end with
    the time budget, after at least `MIN_ROUNDS` and at most `MAX_ROUNDS`. A prompt has
    `PROMPT_TOKENS` tokens, or fewer where the model's context is shorter.

    Args:
        models: the models by name.
        before_each: called before each model's turn.
    """
    times: dict[Name, list[tuple[float, float]]] = {name: [] for name in models}
    lengths = {name: _prompt_length(one.model) for name, one in models.items()}
    for name, one in models.items():
        before_each()
        _once(one, lengths[name], min(4, DECODE_TOKENS))
    begin = time.perf_counter()
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() - begin > BUDGET_SECONDS:
            break
        for name, one in models.items():
            before_each()
            times[name].append(_once(one, lengths[name], DECODE_TOKENS))
    return {name: _speed(measured, lengths[name]) for name, measured in times.items()}


def _speed(seconds: Sequence[tuple[float, float]], prompt_tokens: int) -> Speed:
    """Return the speed from the seconds of prefill and decoding in each round."""
    prefill = [prompt_tokens / first for first, _ in seconds]
    decode = [DECODE_TOKENS / second for _, second in seconds]
    return Speed(
        prefill=median(prefill),
        decode=median(decode),
        prefill_range=(min(prefill), max(prefill)),
        decode_range=(min(decode), max(decode)),
        rounds=len(seconds),
    )


def _prompt_length(model: Any) -> int:
    limit = getattr(model.config, "max_position_embeddings", None)
    if not limit:
        return PROMPT_TOKENS
    return max(1, min(PROMPT_TOKENS, int(limit) - DECODE_TOKENS))


def _once(one: Runnable, prompt_tokens: int, decode_tokens: int) -> tuple[float, float]:
    """Return the seconds of one prefill and of `decode_tokens` single-token steps after it."""
    model = one.model
    device = device_of(model)
    # Speed does not depend on the tokens. Special ones come first in most vocabularies.
    vocabulary = int(model.config.vocab_size)
    prompt = (
        torch.arange(prompt_tokens, device=device) % max(1, vocabulary // 2)
    ) + vocabulary // 4
    cached = cache_argument(model, DynamicCache(config=model.config))
    with one.context():
        start = _now(device)
        output = model(input_ids=prompt.unsqueeze(0), use_cache=True, logits_to_keep=1, **cached)
        token = output.logits[:, -1:].argmax(dim=-1)
        middle = _now(device)
        for _ in range(decode_tokens):
            output = model(input_ids=token, use_cache=True, logits_to_keep=1, **cached)
            token = output.logits[:, -1:].argmax(dim=-1)
        end = _now(device)
    return middle - start, end - middle


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
