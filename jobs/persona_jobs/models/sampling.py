"""Drawing the next token of each row from its own stream of random numbers."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def row_stream(seed: int, row: int) -> torch.Generator:
    """Return a CPU generator whose numbers depend on seed and row alone."""
    digest = hashlib.sha256(f"{seed}:{row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_uniforms(streams: Sequence[torch.Generator], vocabulary: int) -> Tensor:
    """Return the streams' next numbers in [0, 1), float32 `[len(streams), vocabulary]`."""
    uniforms = torch.empty(len(streams), vocabulary)
    for row, stream in zip(uniforms, streams, strict=True):
        row.uniform_(generator=stream)
    return uniforms


def next_tokens(logits: Tensor, temperature: float, uniforms: Tensor | None = None) -> Tensor:
    """Return the next token of each row: the likeliest at temperature 0, else a draw.

    The draw is the Gumbel-max trick, as a race of exponential clocks: the token with the largest
    `p / -log(u)` wins. Unlike a search in the cumulative distribution, the rounding of one logit
    can't shift the choice among all the others, so a row's tokens hardly ever depend on the
    rounding of the batch it is in.

    Args:
        logits: `[rows, vocab]`.
        temperature: 0 for greedy decoding, else the divisor of the logits.
        uniforms: `[rows, vocab]` in [0, 1); only needed above temperature 0.

    Returns:
        `[rows]`, int64.
    """
    if temperature == 0 or uniforms is None:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    # log(u) is -inf at u = 0, a clock that never rings, and never 0.
    return (probabilities / uniforms.to(logits.device).log_().neg_()).argmax(dim=-1)
