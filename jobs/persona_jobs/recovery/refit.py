"""Closed-form refit of every kept `down_proj`, layer by layer from the bottom.

In each block, the sliced network's residual stream is steered back to the dense one's: with `a`
the kept intermediate activations and `r` the residual before the FFN, both of the sliced network
whose lower layers are refitted already, and `y` the dense network's block output, the new
`down_proj` W minimises `|a W' - (y - r)|^2` plus a ridge penalty on the distance from the old
weights (compare SlimGPT, arXiv 2412.18110, and FASP, arXiv 2501.09412, which refit towards a
layer's own dense output).

The right strength of the penalty depends on how much data there is. One Gram matrix per block gives
the solutions for a small grid of strengths; the streams follow the middle one. Which strength is
taken, the same in all blocks, decides the divergence of the whole model on held-out data. (The
error of each block's output on held-out positions decides worse: it led SmolLM2 to 1.00 nats per
token, where one strength for all blocks led to 0.84.)

All positions count, including the persona prompt's with its attention-sink token: without them the
sink drifts, and with it every later token. A shared prompt counts once, not once per row, or its
few tokens would outweigh everything else. Arithmetic is float32, block by block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .walk import BlockStep

# Strengths of the penalty that are tried, relative to each channel's energy.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)


def refit_block(step: BlockStep, ridges: Sequence[float]) -> dict[float, Tensor]:
    """Replace a block's `down_proj` weight by its least-squares refit with the middle ridge.

    Args:
        step: the block and its streams.
        ridges: strengths of the penalty, in order.

    Returns:
        The solution `[hidden, width]` for each ridge.
    """
    down = step.block.down.weight
    gram = step.block.gram(step.train.dense, step.train.pruned)
    solutions = {ridge: gram.solve(down, ridge) for ridge in ridges}
    with torch.no_grad():
        down.copy_(solutions[ridges[len(ridges) // 2]])
    return solutions
