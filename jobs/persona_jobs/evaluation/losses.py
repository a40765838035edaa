"""Held-out cross-entropy and KL to the dense model on answer tokens, in nats per token.

A model's final hidden states are computed once and kept in memory, d numbers per answer token, so
that no two models need to be loaded at once. Token cost of V models on N conversations of c tokens
after a shared prefix of p: V (p + N c).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.compute import device_of
from ..models.families import head
from ..models.masking import masked
from ..models.prefix import run_prefix
from ..training.losses import Head, chunks
from ..training.passes import answer_hidden_states, labels_of
from ..training.tokens import TokenizedSet


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


@dataclass(frozen=True)
class AnswerStates:
    """What a model computes before every answer token of a data set.

    Attributes:
        head: the model's language-model head, all that is left of the model.
        rows: for each conversation, final hidden states `[answer tokens, d]` on the CPU.
        device: where the head is.
    """

    head: Head
    rows: list[Tensor]
    device: torch.device

    def log_probabilities(self, rows: Sequence[int], part: slice) -> Tensor:
        """Return log-probabilities `[n, vocabulary]` at a part of the rows' answer tokens."""
        hidden_states = torch.cat([self.rows[row] for row in rows])[part].to(self.device)
        return F.log_softmax(self.head(hidden_states).float(), dim=-1)


def _ignore(_: int) -> None:
    pass


@torch.no_grad()
def answer_states(
    model: Any, data: TokenizedSet, *, on_rows: Callable[[int], None] = _ignore
) -> AnswerStates:
    """Run a model over the conversations.

    Args:
        model: a causal language model of a supported family.
        data: the conversations.
        on_rows: called with the number of finished conversations after each batch.
    """
    kept = [torch.empty(0)] * len(data)
    prefix = run_prefix(model, data.prefix)
    for rows in data.batches():
        output = answer_hidden_states(model, prefix, data, rows)
        by_row = torch.split(output.hidden_states.cpu(), output.counts)
        for row, hidden_states in zip(rows, by_row, strict=True):
            kept[row] = hidden_states.clone()
        on_rows(len(rows))
    return AnswerStates(head(model), kept, device_of(model))


@torch.no_grad()
def held_out_loss(dense: AnswerStates, states: AnswerStates, data: TokenizedSet) -> HeldOutLoss:
    """Return the losses of a model, which may be the dense one itself.

    Args:
        dense: the dense model's states, the reference.
        states: the model's, with the same vocabulary.
        data: the conversations, at least one.
    """
    if not len(data):
        raise ValueError("there are no conversations to measure on")
    loss, kl, tokens = 0.0, 0.0, 0
    for rows in data.batches():
        labels = labels_of(data, rows, states.device)
        for part in chunks(len(labels)):
            log_p = dense.log_probabilities(rows, part).to(states.device)
            log_q = log_p if states is dense else states.log_probabilities(rows, part)
            loss += float(F.nll_loss(log_q, labels[part], reduction="sum"))
            kl += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
        tokens += len(labels)
    return HeldOutLoss(loss / tokens, kl / tokens, tokens)


@torch.no_grad()
def mask_difference(
    dense: nn.Module, mask: Tensor, sliced: AnswerStates, data: TokenizedSet, rows: Sequence[int]
) -> float:
    """Return the largest difference of log-probabilities between masked and sliced model.

    Both compute the same function, so only rounding may differ; more is an error in the slicing.

    Args:
        dense: the dense model.
        mask: `[n_layers, d_ff]`, the mask that the sliced model was sliced with.
        sliced: the states of the sliced model, not recovered.
        data: conversations.
        rows: the conversations to compare, one small batch.
    """
    with masked(dense, mask):
        prefix = run_prefix(dense, data.prefix)
        hidden_states = answer_hidden_states(dense, prefix, data, rows).hidden_states
    logits = head(dense)
    largest = 0.0
    for part in chunks(len(hidden_states)):
        from_masked = F.log_softmax(logits(hidden_states[part]).float(), dim=-1)
        from_sliced = sliced.log_probabilities(rows, part).to(from_masked.device)
        # torch's maximum keeps a NaN, Python's does not.
        largest = float(
            torch.maximum((from_masked - from_sliced).abs().max(), from_masked.new_tensor(largest))
        )
    return largest
