"""Next-token logits of the answers of many conversations that share a system prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .chat import Conversation
from .prefix import PrefixCache, TokenIds, forward_rests, run_prefix, split


@dataclass(frozen=True)
class AnswerLogits:
    """Logits at the positions that predict answer tokens, conversations one after the other.

    Attributes:
        logits: `[n, vocab]`.
        targets: `[n]`, the answer tokens.
        counts: answer tokens of each conversation; their sum is `n`.
    """

    logits: Tensor
    targets: Tensor
    counts: list[int]


def shared_prefix(conversations: Sequence[Conversation]) -> list[int]:
    """The longest prefix that all conversations share and that leaves every answer predictable."""
    prefix_ids, _ = split(
        [conversation.ids for conversation in conversations],
        before=[conversation.answer_start for conversation in conversations],
    )
    return prefix_ids


def answer_logits(
    model: nn.Module, conversations: Sequence[Conversation], *, share_prefix: bool = True
) -> AnswerLogits:
    """Logits of all answer tokens; the conversations' common prefix is run once, in the same graph.

    Args:
        model: a causal language model of a supported family, masked or not.
        conversations: from `chat.conversation`.
        share_prefix: False runs every conversation whole, as it must be with a mask a row.
    """
    prefix_ids = shared_prefix(conversations) if share_prefix else []
    return answer_logits_after(model, run_prefix(model, prefix_ids), prefix_ids, conversations)


def answer_logits_after(
    model: nn.Module,
    prefix: PrefixCache,
    prefix_ids: TokenIds,
    conversations: Sequence[Conversation],
) -> AnswerLogits:
    """As `answer_logits`, with a prefix that was run before and serves many batches.

    Args:
        model: a causal language model of a supported family.
        prefix: keys and values of `prefix_ids`, from `run_prefix`.
        prefix_ids: a prefix of every conversation that ends before its answer's predictor.
        conversations: from `chat.conversation`.

    Raises:
        ValueError: a conversation doesn't start with the prefix, or its answer begins in it.
    """
    start = len(prefix_ids)
    if prefix.length != start:
        raise ValueError(f"the prefix cache holds {prefix.length} tokens, not {start}")
    rests, positions = [], []
    for conversation in conversations:
        if conversation.ids[:start] != list(prefix_ids) or conversation.answer_start <= start:
            raise ValueError("a conversation does not continue the shared prefix")
        rests.append(conversation.ids[start:])
        # The token before an answer token predicts it.
        positions.append(range(conversation.answer_start - start - 1, len(rests[-1]) - 1))
    output = forward_rests(model, prefix, rests, positions=positions)
    assert output.logits is not None  # noqa: S101
    targets = [token for conversation in conversations for token in conversation.answer_ids]
    return AnswerLogits(
        logits=output.logits,
        targets=torch.tensor(targets, dtype=torch.long, device=output.logits.device),
        counts=output.counts,
    )
