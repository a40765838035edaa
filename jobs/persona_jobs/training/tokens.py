"""Examples as token ids, split into the shared prefix and each row's suffix."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dataset import Example
from ..models.batching import MAX_BATCH_TOKENS, length_sorted_batches
from ..models.chat import Conversation, conversation
from ..models.prefix import split


@dataclass(frozen=True)
class TokenizedSet:
    """Conversations that share a system prompt.

    Attributes:
        prefix: token ids that all rows begin with.
        suffixes: what follows the prefix in each row.
        positions: for each row, indices into its suffix whose next token belongs to the answer.
        labels: for each row, those next tokens.
        too_long: examples left out because they had more than `max_tokens` tokens.
        dense_hidden_states: for each row, the dense model's final hidden states before the answer
            tokens, `[answer tokens, d]`; None where no loss needs them.
    """

    prefix: list[int]
    suffixes: list[list[int]]
    positions: list[list[int]]
    labels: list[list[int]]
    too_long: int = 0
    dense_hidden_states: Sequence[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.suffixes)

    def answer_tokens(self, rows: Iterable[int]) -> int:
        """Return the number of answer tokens in the rows."""
        return sum(len(self.labels[row]) for row in rows)

    def dense_hidden_states_of(self, rows: Iterable[int]) -> Tensor | None:
        """Return the dense model's hidden states of the rows, one after the other, `[n, d]`."""
        if self.dense_hidden_states is None:
            return None
        return torch.cat([self.dense_hidden_states[row] for row in rows])

    def batches(self) -> Iterator[list[int]]:
        """Yield all rows in batches of similar length, for passes without gradients."""
        lengths = [len(suffix) for suffix in self.suffixes]
        return length_sorted_batches(lengths, max_tokens=MAX_BATCH_TOKENS)

    @property
    def tokens(self) -> int:
        """Number of tokens after the prefix."""
        return sum(len(suffix) for suffix in self.suffixes)


def conversation_of(tokenizer: Any, example: Example) -> Conversation:
    """Return an example as token ids."""
    return conversation(
        tokenizer,
        example.system,
        example.query,
        example.answer,
        history=example.history,
        ends=example.ends,
    )


def tokenize(tokenizer: Any, examples: Sequence[Example], *, max_tokens: int) -> TokenizedSet:
    """Tokenize the examples with the chat template, leaving out those above `max_tokens`."""
    conversations = [conversation_of(tokenizer, example) for example in examples]
    kept = [c for c in conversations if len(c.ids) <= max_tokens]
    too_long = len(conversations) - len(kept)
    if not kept:
        return TokenizedSet([], [], [], [], too_long)
    prefix, suffixes = split([c.ids for c in kept], before=[c.answer_start for c in kept])
    positions = []
    labels = []
    for item, suffix in zip(kept, suffixes, strict=True):
        first = item.answer_start - len(prefix)
        positions.append(list(range(first - 1, len(suffix) - 1)))
        labels.append(suffix[first:])
    return TokenizedSet(prefix, suffixes, positions, labels, too_long)
