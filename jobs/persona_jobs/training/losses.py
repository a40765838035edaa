"""Losses on answer tokens, from final hidden states.

The dense model's reference is kept as final hidden states, `d` numbers a token, rather than as
log-probabilities, one number a token and vocabulary entry: the head turns one into the other with
one matrix product, and a data set fits into memory (SmolLM2: 85 times less).
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["KL", "CrossEntropy", "Sum"]
Head = Callable[[Tensor], Tensor]

# Positions whose logits are held at once: bounds memory at positions x vocabulary floats.
CHUNK_POSITIONS = 512


def answer_loss(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    dense_hidden: Tensor | None,
    objective: Objective,
) -> Tensor:
    """Sum over positions of the loss on the next token, in nats, float32.

    Args:
        head: maps hidden states `[n, d]` to logits `[n, vocabulary]`.
        hidden: final hidden states `[n, d]` of the model at the positions before answer tokens.
        targets: the answer tokens `[n]`.
        dense_hidden: the dense model's final hidden states `[n, d]`; needed for KL and Sum.
        objective: KL(dense || model), cross-entropy, or their sum.
    """
    log_q = F.log_softmax(head(hidden).float(), dim=-1)
    loss = hidden.new_zeros((), dtype=torch.float32)
    if objective != "KL":
        loss = loss + F.nll_loss(log_q, targets, reduction="sum")
    if objective != "CrossEntropy":
        if dense_hidden is None:
            raise ValueError("KL needs the dense model's hidden states")
        with torch.no_grad():
            log_p = F.log_softmax(head(dense_hidden).float(), dim=-1)
        loss = loss + F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return loss


def _chunks(
    hidden: Tensor, targets: Tensor, dense_hidden: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for start in range(0, hidden.shape[0], CHUNK_POSITIONS):
        part = slice(start, start + CHUNK_POSITIONS)
        yield hidden[part], targets[part], None if dense_hidden is None else dense_hidden[part]


def answer_loss_value(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    dense_hidden: Tensor | None,
    objective: Objective,
) -> float:
    """`answer_loss` without a gradient, in chunks of positions."""
    with torch.no_grad():
        return sum(
            float(answer_loss(head, h, t, d, objective))
            for h, t, d in _chunks(hidden, targets, dense_hidden)
        )


def backward_answer_loss(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    dense_hidden: Tensor | None,
    objective: Objective,
    scale: float,
) -> float:
    """Back-propagate `scale * answer_loss` through `hidden` and return the unscaled loss.

    The head's part is done in chunks of positions, so that the logits of one chunk at a time are
    in memory; the gradient is the same.
    """
    leaf = hidden.detach().requires_grad_(True)
    total = 0.0
    for h, t, d in _chunks(leaf, targets, dense_hidden):
        loss = answer_loss(head, h, t, d, objective)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    hidden.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return total
