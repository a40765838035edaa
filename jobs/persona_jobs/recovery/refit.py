"""Closed-form refit of every kept `down_proj`, layer by layer from the bottom.

In each block, the sliced network's residual stream is steered back to the dense one's: with `a`
the kept intermediate activations and `r` the residual before the FFN, both of the sliced network
whose lower layers are refitted already, and `y` the dense network's block output, the new
`down_proj` W minimises `|a W' - (y - r)|^2` plus a ridge penalty on the distance from the old
weights (compare SlimGPT, arXiv 2412.18110, and FASP, arXiv 2501.09412, which refit towards a
layer's own dense output).

All positions count, including the persona prompt's with its attention-sink token: without them the
sink drifts, and with it every later token. A shared prompt counts once, not once per row, or its
few tokens would outweigh everything else. Arithmetic is float32, block by block.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.attention import attention_installed
from ..models.families import ffn_layers
from ..training.tokens import TokenizedSet
from .block_fit import BlockCopy
from .streams import embedded


def refit(
    dense: Any,
    sliced: Any,
    sets: Sequence[TokenizedSet],
    *,
    ridge: float,
    scratch: Path,
    on_layer: Callable[[], None] = lambda: None,
) -> None:
    """Replace the `down_proj` weights of `sliced` by their least-squares refit, in place.

    Args:
        dense: the dense model.
        sliced: the same model without the pruned channels.
        sets: examples; each set shares a prefix.
        ridge: strength of the penalty, relative to each channel's energy.
        scratch: directory for the residual streams (2 x tokens x hidden x 4 bytes).
        on_layer: called after every layer.
    """
    layers = ffn_layers(sliced)
    with (
        attention_installed(dense),
        attention_installed(sliced),
        embedded(dense, sets, scratch) as streams,
    ):
        dense_streams, sliced_streams = streams
        for layer in layers:
            whole = BlockCopy.of(dense, layer.index)
            for stream_set in dense_streams:
                whole.advance(stream_set)
            fitted = BlockCopy.of(sliced, layer.index)
            weights = fitted.gram(dense_streams, sliced_streams).solve(fitted.down.weight, ridge)
            with torch.no_grad():
                fitted.down.weight.copy_(weights)
                layer.down.weight.copy_(weights)
            for stream_set in sliced_streams:
                fitted.advance(stream_set)
            on_layer()
