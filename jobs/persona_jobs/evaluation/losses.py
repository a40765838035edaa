"""Held-out cross-entropy and KL to the dense model on answer tokens, in nats per token.

Token cost of V models on N conversations of c tokens after a shared prefix of p: V (p + N c). The
dense model's hidden states are computed once per batch and discarded with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ..models.masking import masked
from ..models.prefix import run_prefix
from ..training.losses import chunks, logits
from ..training.passes import answer_hidden_states, labels_of
from ..training.tokens import TokenizedSet

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class HeldOutLoss:
    """Means over all answer tokens of a data set.

    Attributes:
        cross_entropy: cross-entropy of the answers' tokens, in nats per token.
        kl: KL(dense || model) of the next-token distributions, in nats per token; 0 for the dense
            model itself.
        tokens: number of answer tokens.
    """

    cross_entropy: float
    kl: float
    tokens: int


def _ignore(_: int) -> None:
    pass


@torch.no_grad()
def held_out_losses(
    dense: nn.Module,
    others: Mapping[Name, nn.Module],
    data: TokenizedSet,
    *,
    on_rows: Callable[[int], None] = _ignore,
) -> tuple[HeldOutLoss, dict[Name, HeldOutLoss]]:
    """Return the losses of the dense model and of every other one on the same conversations.

    Args:
        dense: the reference.
        others: models with the same vocabulary, by name.
        data: at least one conversation.
        on_rows: called with the number of finished conversations after each batch.

    Returns:
        the dense model's loss and the others' by name.
    """
    if not len(data):
        raise ValueError("there are no conversations to measure on")
    dense_prefix = run_prefix(dense, data.prefix)
    prefixes = {name: run_prefix(model, data.prefix) for name, model in others.items()}
    dense_loss, tokens = 0.0, 0
    losses, kls = dict.fromkeys(others, 0.0), dict.fromkeys(others, 0.0)
    for rows in data.batches():
        hidden_states = answer_hidden_states(dense, dense_prefix, data, rows).hidden_states
        labels = labels_of(data, rows, hidden_states.device)
        other_hidden_states = {
            name: answer_hidden_states(model, prefixes[name], data, rows).hidden_states
            for name, model in others.items()
        }
        for part in chunks(len(labels)):
            log_p = F.log_softmax(logits(dense, hidden_states[part]), dim=-1)
            dense_loss += float(F.nll_loss(log_p, labels[part], reduction="sum"))
            for name, model in others.items():
                log_q = F.log_softmax(logits(model, other_hidden_states[name][part]), dim=-1)
                losses[name] += float(F.nll_loss(log_q, labels[part], reduction="sum"))
                kls[name] += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
        tokens += len(labels)
        on_rows(len(rows))
    return HeldOutLoss(dense_loss / tokens, 0.0, tokens), {
        name: HeldOutLoss(losses[name] / tokens, kls[name] / tokens, tokens) for name in others
    }


@torch.no_grad()
def mask_difference(
    dense: nn.Module,
    mask: torch.Tensor,
    sliced: nn.Module,
    data: TokenizedSet,
    rows: Sequence[int],
) -> float:
    """Return the largest difference of log-probabilities between masked and sliced model.

    Both compute the same function, so only rounding may differ; more is an error in the slicing.

    Args:
        dense: the dense model.
        mask: `[n_layers, d_ff]`, the mask that `sliced` was sliced with.
        sliced: the sliced model, not recovered.
        data: conversations.
        rows: the conversations to compare, one small batch.
    """
    with masked(dense, mask):
        dense_prefix = run_prefix(dense, data.prefix)
        of_masked = answer_hidden_states(dense, dense_prefix, data, rows).hidden_states
    sliced_prefix = run_prefix(sliced, data.prefix)
    of_sliced = answer_hidden_states(sliced, sliced_prefix, data, rows).hidden_states
    largest = 0.0
    for part in chunks(len(of_sliced)):
        from_masked = F.log_softmax(logits(dense, of_masked[part]), dim=-1)
        from_sliced = F.log_softmax(logits(sliced, of_sliced[part]), dim=-1)
        # torch's maximum keeps a NaN, Python's does not.
        largest = float(
            torch.maximum((from_masked - from_sliced).abs().max(), from_masked.new_tensor(largest))
        )
    return largest
