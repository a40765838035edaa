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

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.attention import attention_installed
from ..models.families import blocks, ffn_layers
from ..training.tokens import TokenizedSet
from .least_squares import GramAccumulator
from .streams import StreamSet, embedded, run_block


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
        pairs = zip(blocks(dense), blocks(sliced), strict=True)
        for index, (dense_block, sliced_block) in enumerate(pairs):
            copied = _float32(dense_block)
            for stream_set in dense_streams:
                _advance(dense, copied, index, stream_set)
            block = _float32(sliced_block)
            fitted = _Fitted(sliced, block, _down(sliced_block, block, layers[index].down), index)
            weights = fitted.gram(dense_streams, sliced_streams).solve(fitted.down.weight, ridge)
            with torch.no_grad():
                fitted.down.weight.copy_(weights)
                layers[index].down.weight.copy_(weights)
            for stream_set in sliced_streams:
                _advance(sliced, block, index, stream_set)
            on_layer()


def _float32(block: nn.Module) -> nn.Module:
    copied: nn.Module = copy.deepcopy(block).float()
    return copied.requires_grad_(False)


def _down(block: nn.Module, copied: nn.Module, original: nn.Linear) -> nn.Linear:
    """Return the module of `copied` that corresponds to `original` in `block`."""
    for one, other in zip(block.modules(), copied.modules(), strict=True):
        if one is original and isinstance(other, nn.Linear):
            return other
    raise ValueError("the projection is not part of the block")


def _advance(model: Any, block: nn.Module, layer: int, streams: StreamSet) -> None:
    with torch.no_grad():
        for batch, output in run_block(model, block, layer, streams):
            batch.stream.copy_(output)


@dataclass(frozen=True)
class _Fitted:
    """A float32 copy of a block of the sliced model, and its `down_proj`."""

    model: Any
    block: nn.Module
    down: nn.Linear
    layer: int

    def gram(
        self, dense_streams: Sequence[StreamSet], sliced_streams: Sequence[StreamSet]
    ) -> GramAccumulator:
        """Return sums over all tokens of the sets; each set's prefix counts once."""
        down = self.down
        device = down.weight.device
        gram = GramAccumulator(down.in_features, down.out_features, device)
        captured: dict[str, Tensor] = {}

        def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            captured["activation"], captured["output"] = inputs[0], output

        handle = down.register_forward_hook(keep)
        try:
            with torch.no_grad():
                for dense_set, sliced_set in zip(dense_streams, sliced_streams, strict=True):
                    targets = [b.stream for b in (dense_set.prefix, *dense_set.batches) if b]
                    outputs = run_block(self.model, self.block, self.layer, sliced_set)
                    for target, (batch, output) in zip(targets, outputs, strict=True):
                        residual = output - captured["output"]
                        wanted = target.to(device) - residual
                        if down.bias is not None:
                            wanted = wanted - down.bias
                        valid = batch.valid.to(device)
                        gram.add(captured["activation"][valid], wanted[valid])
        finally:
            handle.remove()
        return gram
