"""Sampling settings: a request's own ones, and the checkpoint's defaults for the others."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..models.sampling import draw_uniforms, next_tokens, row_stream
from .protocol import ChatRequest

MIN_TEMPERATURE = 0.01
"""Lower temperatures but 0 are raised to this one: the scores divided by them may be infinite."""


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
    chosen = replace(defaults, **{"seed": secrets.randbits(63), **asked})
    if 0 < chosen.temperature < MIN_TEMPERATURE:
        chosen = replace(chosen, temperature=MIN_TEMPERATURE)
    return chosen


class TokenChooser:
    """The choice of one answer's tokens, with a stream of random numbers of its own.

    Args:
        sampling: the settings.
        prompt: token ids of the conversation.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._prompt = prompt
        self._stream = row_stream(sampling.seed, 0)

    def choose(self, logits: Tensor, answer: Sequence[int]) -> int:
        """Return the next token.

        Args:
            logits: the model's scores, `[vocabulary]`.
            answer: the tokens of the answer so far.
        """
        scores = penalized(logits.float(), self._prompt, answer, self._sampling)
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        scores, tokens = candidates(scores / self._sampling.temperature, self._sampling)
        uniforms = draw_uniforms([self._stream], len(scores))
        chosen = int(next_tokens(scores.unsqueeze(0), 1.0, uniforms))
        return chosen if tokens is None else int(tokens[chosen])


def penalized(
    scores: Tensor, prompt: Sequence[int], answer: Sequence[int], sampling: Sampling
) -> Tensor:
    """Return the scores `[vocabulary]` with all penalties applied.

    The repetition penalty (CTRL, arXiv:1909.05858) is for all tokens of prompt and answer. The
    others are OpenAI's (https://platform.openai.com/docs/api-reference/chat/create): score[t] -=
    presence * (count > 0) + frequency * count, where count is how often token t is in the answer.
    """
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt, *answer}), device=scores.device)
        found = scores[seen]
        factor = sampling.repetition_penalty
        scores = scores.index_copy(0, seen, torch.where(found < 0, found * factor, found / factor))
    if answer and (sampling.presence_penalty or sampling.frequency_penalty):
        ids = torch.tensor(answer, device=scores.device)
        counts = torch.bincount(ids, minlength=len(scores)).to(scores.dtype)
        scores = scores - sampling.frequency_penalty * counts
        scores = scores - sampling.presence_penalty * (counts > 0).to(scores.dtype)
    return scores


def candidates(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Return the scores of the tokens that `top_k`, `top_p` and `min_p` keep, and their ids.

    Each of the three, in this order, keeps at least the most likely token; `top_p` counts the
    probabilities of what `top_k` kept. (Top-p: arXiv:1904.09751; min-p: arXiv:2407.01082)

    Args:
        scores: `[vocabulary]`, divided by the temperature.
        sampling: the settings.

    Returns:
        Scores `[kept]` and token ids `[kept]`, the likeliest first; None for all ids in order.
    """
    if sampling.top_k == 0 and sampling.top_p >= 1 and sampling.min_p == 0:
        return scores, None
    limit = min(sampling.top_k or len(scores), len(scores))
    values, tokens = scores.topk(limit) if limit < len(scores) else scores.sort(descending=True)
    probabilities = values.softmax(-1)
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if sampling.top_p < 1:
        keep &= probabilities.cumsum(-1) - probabilities < sampling.top_p
    keep &= probabilities >= sampling.min_p * probabilities[0]
    keep[0] = True
    return values[keep], tokens[keep]
