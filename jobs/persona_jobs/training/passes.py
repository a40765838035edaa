"""Forward and backward passes over a tokenized set, with its prefix run once.

Within a gradient step the prefix's keys and values are computed once with their graph; every
micro-batch reads a detached copy and leaves its gradient there; at the end the collected gradient
goes through the prefix once. That is exactly the gradient of the plain batch.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..models.batching import length_sorted_batches
from ..models.prefix import ForwardOutput, PrefixCache, PrefixGraph, forward_rests, run_prefix
from .losses import Objective, answer_loss_value, backward_answer_loss
from .tokens import TokenizedSet

EVALUATION_TOKENS = 2048
Masking = Callable[[], AbstractContextManager[Any]]


def answer_hidden(
    model: Any, prefix: PrefixCache, data: TokenizedSet, rows: Sequence[int]
) -> ForwardOutput:
    """Final hidden states at the positions before answer tokens, row after row."""
    return forward_rests(
        model,
        prefix,
        [data.rests[row] for row in rows],
        positions=[data.positions[row] for row in rows],
        logits=False,
    )


def targets_of(data: TokenizedSet, rows: Iterable[int], device: torch.device) -> Tensor:
    """Answer tokens of the rows, one after the other, `[n]`."""
    return torch.tensor([t for row in rows for t in data.targets[row]], device=device)


def dense_references(
    model: Any, data: TokenizedSet, *, on_rows: Callable[[int], None] = lambda _rows: None
) -> list[Tensor]:
    """The model's final hidden states before each answer token: per row `[n_i, hidden]`.

    Computed once and kept; the head turns them into log-probabilities when they are needed.
    """
    references: list[Tensor] = [torch.empty(0)] * len(data)
    with torch.no_grad():
        prefix = run_prefix(model, data.prefix)
        lengths = [len(rest) for rest in data.rests]
        for rows in length_sorted_batches(lengths, max_tokens=EVALUATION_TOKENS):
            output = answer_hidden(model, prefix, data, rows)
            for row, states in zip(rows, torch.split(output.hidden, output.counts), strict=True):
                references[row] = states.clone()
            on_rows(len(rows))
    return references


def mean_answer_loss(
    model: Any, data: TokenizedSet, references: Sequence[Tensor] | None, objective: Objective
) -> float:
    """Mean loss an answer token over the whole set, in nats, without gradients."""
    total = 0.0
    head = model.get_output_embeddings()
    with torch.no_grad():
        prefix = run_prefix(model, data.prefix)
        lengths = [len(rest) for rest in data.rests]
        for rows in length_sorted_batches(lengths, max_tokens=EVALUATION_TOKENS):
            hidden = answer_hidden(model, prefix, data, rows).hidden
            dense = None if references is None else torch.cat([references[row] for row in rows])
            targets = targets_of(data, rows, hidden.device)
            total += answer_loss_value(head, hidden, targets, dense, objective)
    return total / max(1, data.answer_tokens(range(len(data))))


def accumulate_gradient(
    model: Any,
    data: TokenizedSet,
    rows: Sequence[int],
    references: Sequence[Tensor] | None,
    objective: Objective,
    *,
    micro_batch_size: int,
    scale: float,
    masking: Masking = nullcontext,
) -> float:
    """Add the gradient of `scale` times the summed answer loss of the rows to the leaves.

    Args:
        model: the model; what requires grad (mask scores, weights) is up to the caller.
        data: the set.
        rows: the step's rows of it.
        references: from `dense_references`; needed for KL and Sum.
        objective: the loss.
        micro_batch_size: rows in one forward pass; the gradient does not depend on it.
        scale: factor, usually 1 / answer tokens of the step.
        masking: makes the context in which forward passes run (`models.masking.masked`).

    Returns:
        the unscaled summed loss.
    """
    with masking():
        prefix = PrefixGraph(model, data.prefix)
    total = 0.0
    by_length = sorted(rows, key=lambda row: len(data.rests[row]))
    head = model.get_output_embeddings()
    for start in range(0, len(by_length), micro_batch_size):
        part = by_length[start : start + micro_batch_size]
        with masking():
            hidden = answer_hidden(model, prefix.cache, data, part).hidden
        dense = None if references is None else torch.cat([references[row] for row in part])
        targets = targets_of(data, part, hidden.device)
        total += backward_answer_loss(head, hidden, targets, dense, objective, scale)
    prefix.backward()
    return total
