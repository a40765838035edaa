"""Examples as token ids, split into the shared prefix and the rest of each row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..dataset import Example
from ..models.chat import conversation
from ..models.prefix import split


@dataclass(frozen=True)
class TokenizedSet:
    """Conversations that share a system prompt.

    Attributes:
        prefix: token ids that all rows begin with.
        rests: what follows the prefix in each row.
        positions: for each row, indices into its rest whose next token belongs to the answer.
        targets: for each row, those next tokens.
        too_long: examples left out because they had more than `max_tokens` tokens.
    """

    prefix: list[int]
    rests: list[list[int]]
    positions: list[list[int]]
    targets: list[list[int]]
    too_long: int = 0

    def __len__(self) -> int:
        return len(self.rests)

    def answer_tokens(self, rows: Iterable[int]) -> int:
        """Number of answer tokens of the rows."""
        return sum(len(self.targets[row]) for row in rows)

    @property
    def tokens(self) -> int:
        """Number of tokens after the prefix."""
        return sum(len(rest) for rest in self.rests)


def tokenize(tokenizer: Any, examples: Sequence[Example], *, max_tokens: int) -> TokenizedSet:
    """Token ids of the examples by the tokenizer's chat template; longer ones are left out."""
    conversations = [
        conversation(tokenizer, example.system, example.query, example.answer)
        for example in examples
    ]
    kept = [c for c in conversations if len(c.ids) <= max_tokens]
    too_long = len(conversations) - len(kept)
    if not kept:
        return TokenizedSet([], [], [], [], too_long)
    prefix, rests = split([c.ids for c in kept], before=[c.answer_start for c in kept])
    positions = []
    targets = []
    for item, rest in zip(kept, rests, strict=True):
        first = item.answer_start - len(prefix)
        positions.append(list(range(first - 1, len(rest) - 1)))
        targets.append(rest[first:])
    return TokenizedSet(prefix, rests, positions, targets, too_long)
