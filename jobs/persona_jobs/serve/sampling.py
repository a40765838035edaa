"""Sampling settings: a request's own ones, and the checkpoint's defaults for the others."""

import secrets
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from .protocol import ChatRequest


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation.

    Attributes:
        temperature: 0 is greedy decoding, where only the penalties have an effect.
        top_p: keep the most likely tokens with this share of the probability; 1 keeps all.
        top_k: keep this many most likely tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the most likely token's probability.
        repetition_penalty: divides the scores of tokens of prompt and answer (CTRL,
            arXiv:1909.05858); 1 is none.
        presence_penalty: subtracted from the score of each token in the answer (OpenAI API).
        frequency_penalty: subtracted once per occurrence of the token (OpenAI API).
        seed: seed of the random choice.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


def checkpoint_defaults(config: Any) -> Sampling:
    """Return the settings of a checkpoint's `generation_config.json`, or else the API's."""
    api = Sampling()

    def value(name: str) -> Any:
        found = getattr(config, name, None)
        return getattr(api, name) if found is None else found

    return Sampling(
        temperature=float(value("temperature")),
        top_p=float(value("top_p")),
        top_k=int(value("top_k")),
        min_p=float(value("min_p")),
        repetition_penalty=float(value("repetition_penalty")),
    )


def of_request(request: ChatRequest, defaults: Sampling) -> Sampling:
    """Return the settings of a request, with a new random seed if it sets none."""
    names = (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
    )
    asked = {name: value for name in names if (value := getattr(request, name)) is not None}
    return replace(defaults, **{"seed": secrets.randbits(63), **asked})


def generation_config(sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
    """Return the settings as a generation configuration of transformers."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        do_sample=sampling.temperature > 0,
        repetition_penalty=sampling.repetition_penalty,
    )
    if sampling.temperature > 0:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        config.top_k = sampling.top_k
        config.min_p = sampling.min_p or None
    return config


class AnswerPenalties(LogitsProcessor):  # type: ignore[misc]
    """Presence and frequency penalties over the generated tokens.

    https://platform.openai.com/docs/api-reference/chat/create: score[t] -= presence * (count > 0)
    + frequency * count, where count is the number of times that token t is in the answer.
    """

    def __init__(self, prompt_tokens: int, presence: float, frequency: float) -> None:
        self._prompt_tokens = prompt_tokens
        self._presence = presence
        self._frequency = frequency

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores [1, vocabulary] minus the penalties; `input_ids` is [1, tokens]."""
        answer = input_ids[0, self._prompt_tokens :]
        counts = torch.bincount(answer, minlength=scores.shape[-1]).to(scores.dtype)
        return scores - self._frequency * counts - self._presence * (counts > 0).to(scores.dtype)
