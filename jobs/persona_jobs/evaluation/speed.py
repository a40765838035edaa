"""Prefill and decode speed, batch of one, models measured in alternation.

Alternation spreads whatever else the machine does over all models; medians drop the rest.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch
from transformers import DynamicCache

from ..models.compute import device_of

Name = TypeVar("Name", bound=str)
PROMPT_TOKENS = 128
DECODE_TOKENS = 32


@dataclass(frozen=True)
class Runnable:
    """A model and the context that it runs in (a mask, for instance).

    Attributes:
        model: the causal language model.
        context: makes the context of one measurement.
    """

    model: Any
    context: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds.

    Attributes:
        prefill: prompt tokens a second.
        decode: generated tokens a second.
        rounds: measurements of each model.
    """

    prefill: float
    decode: float
    rounds: int


def _nothing() -> None:
    pass


@torch.no_grad()
def measure(
    models: Mapping[Name, Runnable],
    *,
    min_rounds: int = 3,
    max_rounds: int = 9,
    budget_seconds: float = 12.0,
    prompt_tokens: int = PROMPT_TOKENS,
    decode_tokens: int = DECODE_TOKENS,
    before_each: Callable[[], None] = _nothing,
) -> dict[Name, Speed]:
    """Speed of each model on a synthetic prompt, by the models' plain forward pass.

    Every round runs each model once, in turn; each runs once unmeasured before. Rounds go on until
    the time budget is spent, at least `min_rounds` and at most `max_rounds`.

    Args:
        models: what to measure, by name.
        min_rounds: rounds even when time is short.
        max_rounds: rounds even when there is time.
        budget_seconds: time after which no further round starts.
        prompt_tokens: length of the prompt; less where the model's context is shorter.
        decode_tokens: tokens generated after it.
        before_each: called before each model's turn.
    """
    times: dict[Name, list[tuple[float, float]]] = {name: [] for name in models}
    lengths = {
        name: (_prompt_length(one.model, prompt_tokens, decode_tokens), decode_tokens)
        for name, one in models.items()
    }
    for name, one in models.items():
        before_each()
        _once(one, lengths[name][0], min(4, decode_tokens))
    begin = time.perf_counter()
    for number in range(max_rounds):
        if number >= min_rounds and time.perf_counter() - begin > budget_seconds:
            break
        for name, one in models.items():
            before_each()
            times[name].append(_once(one, *lengths[name]))
    return {
        name: Speed(
            prefill=lengths[name][0] / median(prefill for prefill, _ in measured),
            decode=decode_tokens / median(decode for _, decode in measured),
            rounds=len(measured),
        )
        for name, measured in times.items()
    }


def _prompt_length(model: Any, prompt_tokens: int, decode_tokens: int) -> int:
    limit = getattr(model.config, "max_position_embeddings", None)
    if not limit:
        return prompt_tokens
    return max(1, min(prompt_tokens, int(limit) - decode_tokens))


def _once(one: Runnable, prompt_tokens: int, decode_tokens: int) -> tuple[float, float]:
    """Seconds of one prefill and of `decode_tokens` single-token steps after it."""
    model = one.model
    device = device_of(model)
    # Any tokens do: speed does not depend on which. Special tokens come first in most vocabularies.
    vocabulary = int(model.config.vocab_size)
    prompt = (
        torch.arange(prompt_tokens, device=device) % max(1, vocabulary // 2)
    ) + vocabulary // 4
    cache = DynamicCache(config=model.config)
    with one.context():
        start = _now(device)
        output = model(
            input_ids=prompt.unsqueeze(0), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        token = output.logits[:, -1:].argmax(dim=-1)
        middle = _now(device)
        for _ in range(decode_tokens):
            output = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1:].argmax(dim=-1)
        end = _now(device)
    return middle - start, end - middle


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
