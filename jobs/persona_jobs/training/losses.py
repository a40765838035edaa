"""Losses on answer tokens, from final hidden states, a bounded number of positions at a time.

A forward pass ends with final hidden states; the language-model head turns them into logits in
chunks of positions, so memory never grows with batch x vocabulary. For the same reason the dense
model's reference is kept as hidden states, `d` numbers per token, rather than as
log-probabilities, one number per token and vocabulary entry: one matrix product turns one into the
other, and a data set fits into memory (SmolLM2: 85 times less).
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.families import head

Objective = Literal["KL", "CrossEntropy", "Sum"]
Head = Callable[[Tensor], Tensor]

# Positions whose logits are held at once: bounds memory at positions x vocabulary floats.
CHUNK_POSITIONS = 512


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of at most `CHUNK_POSITIONS` positions that cover `count` positions."""
    for start in range(0, count, CHUNK_POSITIONS):
        yield slice(start, min(count, start + CHUNK_POSITIONS))


def logits(model: Any, hidden_states: Tensor) -> Tensor:
    """Return the model's logits `[n, vocabulary]` of final hidden states `[n, d]`, in float32."""
    return _logits(head(model), hidden_states)


def answer_loss(
    head: Head,
    hidden_states: Tensor,
    labels: Tensor,
    dense_hidden_states: Tensor | None,
    objective: Objective,
) -> Tensor:
    """Return the loss on the next token, in nats, summed over positions, float32.

    Args:
        head: maps hidden states `[n, d]` to logits `[n, vocabulary]`.
        hidden_states: the model's final hidden states `[n, d]` before each answer token.
        labels: the answer tokens `[n]`.
        dense_hidden_states: the dense model's, `[n, d]`; needed for KL and Sum.
        objective: KL(dense || model), cross-entropy, or their sum.
    """
    log_q = F.log_softmax(_logits(head, hidden_states), dim=-1)
    loss = hidden_states.new_zeros((), dtype=torch.float32)
    if objective != "KL":
        loss = loss + F.nll_loss(log_q, labels, reduction="sum")
    if objective != "CrossEntropy":
        if dense_hidden_states is None:
            raise ValueError("KL needs the dense model's hidden states")
        with torch.no_grad():
            log_p = F.log_softmax(_logits(head, dense_hidden_states), dim=-1)
        loss = loss + F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return loss


def answer_loss_value(
    head: Head,
    hidden_states: Tensor,
    labels: Tensor,
    dense_hidden_states: Tensor | None,
    objective: Objective,
) -> float:
    """Return `answer_loss` without a gradient, computed in chunks of positions."""
    with torch.no_grad():
        return sum(
            float(answer_loss(head, *part, objective))
            for part in _parts(hidden_states, labels, dense_hidden_states)
        )


def backward_answer_loss(
    head: Head,
    hidden_states: Tensor,
    labels: Tensor,
    dense_hidden_states: Tensor | None,
    objective: Objective,
    scale: float,
) -> float:
    """Back-propagate `scale * answer_loss` through `hidden_states` and return the unscaled loss.

    The head runs forward and backward on one chunk of positions at a time, so that only one
    chunk's logits are in memory; the gradient is the same.
    """
    leaf = hidden_states.detach().requires_grad_(True)
    total = 0.0
    for part in _parts(leaf, labels, dense_hidden_states):
        loss = answer_loss(head, *part, objective)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    hidden_states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return total


def _logits(head: Head, hidden_states: Tensor) -> Tensor:
    return head(hidden_states).float()


def _parts(
    hidden_states: Tensor, labels: Tensor, dense_hidden_states: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for part in chunks(len(labels)):
        dense = None if dense_hidden_states is None else dense_hidden_states[part]
        yield hidden_states[part], labels[part], dense
