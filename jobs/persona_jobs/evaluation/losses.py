"""Held-out cross-entropy and KL to the dense model on answer tokens, in nats a token.

Token cost of V models on N conversations of c tokens after a shared prefix of p: V (p + N c). The
dense model's states are computed once a batch, beside the others', and forgotten with it.
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
        cross_entropy: of the answers' tokens, nats a token.
        kl: KL(dense || model) of the next-token distributions, nats a token; 0 for dense itself.
        tokens: answer tokens measured.
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
    """Losses of the dense model and of every other one on the same conversations.

    Args:
        dense: the reference.
        others: models with the same vocabulary, by name.
        data: at least one conversation.
        on_rows: called with the number of conversations done, after each batch.

    Returns:
        (dense, by name)
    """
    if not len(data):
        raise ValueError("there are no conversations to measure on")
    dense_prefix = run_prefix(dense, data.prefix)
    prefixes = {name: run_prefix(model, data.prefix) for name, model in others.items()}
    dense_loss, tokens = 0.0, 0
    losses, kls = dict.fromkeys(others, 0.0), dict.fromkeys(others, 0.0)
    for rows in data.batches():
        states = answer_hidden_states(dense, dense_prefix, data, rows).hidden_states
        targets = labels_of(data, rows, states.device)
        other_states = {
            name: answer_hidden_states(model, prefixes[name], data, rows).hidden_states
            for name, model in others.items()
        }
        for part in chunks(len(targets)):
            log_p = F.log_softmax(logits(dense, states[part]), dim=-1)
            dense_loss += float(F.nll_loss(log_p, targets[part], reduction="sum"))
            for name, model in others.items():
                log_q = F.log_softmax(logits(model, other_states[name][part]), dim=-1)
                losses[name] += float(F.nll_loss(log_q, targets[part], reduction="sum"))
                kls[name] += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
        tokens += len(targets)
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
    """Largest difference of log-probabilities between the masked and the sliced model.

    They are the same function, so it is rounding only; more means that the cut is wrong.

    Args:
        dense: the uncut model.
        mask: `[n_layers, d_ff]`, the mask that `sliced` was cut with.
        sliced: the cut model, not recovered.
        data: conversations.
        rows: those that are compared, one small batch.
    """
    with masked(dense, mask):
        masked_states = answer_hidden_states(
            dense, run_prefix(dense, data.prefix), data, rows
        ).hidden_states
    states = answer_hidden_states(sliced, run_prefix(sliced, data.prefix), data, rows).hidden_states
    largest = 0.0
    for part in chunks(len(states)):
        ours = F.log_softmax(logits(dense, masked_states[part]), dim=-1)
        theirs = F.log_softmax(logits(sliced, states[part]), dim=-1)
        # torch's maximum keeps a NaN, Python's does not.
        largest = float(torch.maximum((ours - theirs).abs().max(), ours.new_tensor(largest)))
    return largest
