"""Perplexity, the plain way: one conversation at a time, one token after the other."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from persona_jobs.dataset import Example
from persona_jobs.training.tokens import conversation_of


def plain_perplexity(model: Any, tokenizer: Any, examples: Iterable[Example]) -> float:
    total, count = 0.0, 0
    for example in examples:
        given = conversation_of(tokenizer, example)
        with torch.no_grad():
            log_p = model(torch.tensor([given.ids])).logits[0].log_softmax(-1)
        for position in range(given.answer_start, len(given.ids)):
            total -= float(log_p[position - 1, given.ids[position]])
            count += 1
    return math.exp(total / count)
