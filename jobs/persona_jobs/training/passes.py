"""Forward and backward passes over a tokenized set, with its prefix run once.

Within a gradient step the prefix's keys and values are computed once with their graph; every
micro-batch reads a detached copy and leaves its gradient there; at the end the collected gradient
goes through the prefix once. That is exactly the gradient of the plain batch.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.families import head
from ..models.prefix import ForwardOutput, PrefixCache, PrefixGraph, forward_suffixes, run_prefix
from .losses import Objective, answer_loss_value, backward_answer_loss
from .tokens import TokenizedSet

Masking = Callable[[], AbstractContextManager[Any]]


def answer_hidden_states(
    model: Any, prefix: PrefixCache, data: TokenizedSet, rows: Sequence[int]
) -> ForwardOutput:
    """Return the final hidden states at the positions before answer tokens, row after row."""
    return forward_suffixes(
        model,
        prefix,
        [data.suffixes[row] for row in rows],
        positions=[data.positions[row] for row in rows],
    )


def labels_of(data: TokenizedSet, rows: Iterable[int], device: torch.device) -> Tensor:
    """Return the answer tokens of the rows, one after the other, `[n]`."""
    return torch.tensor([label for row in rows for label in data.labels[row]], device=device)


def with_dense_hidden_states(
    dense: Any, data: TokenizedSet, *, on_rows: Callable[[int], None] = lambda _rows: None
) -> TokenizedSet:
    """Return the set with the dense model's final hidden states before each answer token.

    They are computed once and kept; the head turns them into log-probabilities when needed.
    """
    kept: list[Tensor] = [torch.empty(0)] * len(data)
    with torch.no_grad():
        prefix = run_prefix(dense, data.prefix)
        for rows in data.batches():
            output = answer_hidden_states(dense, prefix, data, rows)
            by_row = torch.split(output.hidden_states, output.counts)
            for row, hidden_states in zip(rows, by_row, strict=True):
                kept[row] = hidden_states.clone()
            on_rows(len(rows))
    return replace(data, dense_hidden_states=kept)


def mean_answer_loss(model: Any, data: TokenizedSet, objective: Objective) -> float:
    """Return the mean loss per answer token over the whole set, in nats, without gradients."""
    total = 0.0
    logits_of = head(model)
    with torch.no_grad():
        prefix = run_prefix(model, data.prefix)
        for rows in data.batches():
            hidden_states = answer_hidden_states(model, prefix, data, rows).hidden_states
            labels = labels_of(data, rows, hidden_states.device)
            dense = data.dense_hidden_states_of(rows)
            total += answer_loss_value(logits_of, hidden_states, labels, dense, objective)
    return total / max(1, data.answer_tokens(range(len(data))))


def accumulate_gradient(
    model: Any,
    data: TokenizedSet,
    rows: Sequence[int],
    objective: Objective,
    *,
    micro_batch_size: int,
    scale: float,
    masking: Masking = nullcontext,
) -> float:
    """Add the gradient of `scale` times the summed answer loss of the rows to the leaves.

    Args:
        model: the model; the caller decides what requires a gradient (mask scores, weights).
        data: the set; KL and Sum need its dense hidden states.
        rows: the step's rows of it.
        objective: the loss.
        micro_batch_size: rows per forward pass; the gradient does not depend on it.
        scale: factor, usually 1 / answer tokens of the step.
        masking: makes the context in which forward passes run (`models.masking.masked`).

    Returns:
        The unscaled summed loss.
    """
    with masking():
        prefix = PrefixGraph(model, data.prefix)
    total = 0.0
    by_length = sorted(rows, key=lambda row: len(data.suffixes[row]))
    logits_of = head(model)
    for start in range(0, len(by_length), micro_batch_size):
        part = by_length[start : start + micro_batch_size]
        with masking():
            hidden_states = answer_hidden_states(model, prefix.cache, data, part).hidden_states
        labels = labels_of(data, part, hidden_states.device)
        dense = data.dense_hidden_states_of(part)
        total += backward_answer_loss(logits_of, hidden_states, labels, dense, objective, scale)
    prefix.backward()
    return total
