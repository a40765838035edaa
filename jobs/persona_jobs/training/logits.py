"""Logits of final hidden states, a bounded number of positions at a time.

States, not log-probabilities, are what a batch's forward pass leaves: the language-model head runs
on them in parts, so memory never grows with batch x vocabulary.
"""

from collections.abc import Iterator

from torch import Tensor, nn

# Positions whose logits are held at once.
CHUNK_POSITIONS = 256


def chunks(count: int) -> Iterator[slice]:
    """Slices of at most `CHUNK_POSITIONS` that cover `count` positions."""
    for start in range(0, count, CHUNK_POSITIONS):
        yield slice(start, min(count, start + CHUNK_POSITIONS))


def logits(model: nn.Module, states: Tensor) -> Tensor:
    """The model's logits `[n, vocab]` of final hidden states `[n, hidden]`, in float32."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    output: Tensor = head(states)
    return output.float()
