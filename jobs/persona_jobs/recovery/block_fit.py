"""One block in float32, fitted to a residual stream: what the closed-form methods share."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.families import blocks, ffn_layers
from .least_squares import GramAccumulator
from .streams import StreamSet, run_block


@dataclass(frozen=True)
class BlockCopy:
    """A float32 copy of one block, whose weights may be changed.

    Attributes:
        model: the model that the block is from.
        block: the copy.
        down: its `down_proj`.
        layer: the block's index.
    """

    model: Any
    block: nn.Module
    down: nn.Linear
    layer: int

    @classmethod
    def of(cls, model: Any, layer: int) -> "BlockCopy":
        """Copy block `layer` of `model`."""
        original = blocks(model)[layer]
        copied: nn.Module = copy.deepcopy(original).float().requires_grad_(False)
        return cls(model, copied, _down(original, copied, ffn_layers(model)[layer].down), layer)

    def advance(self, streams: StreamSet) -> None:
        """Replace the streams by the block's output on them."""
        with torch.no_grad():
            for batch, output in run_block(self.model, self.block, self.layer, streams):
                batch.stream.copy_(output)

    def gram(
        self, dense_streams: Sequence[StreamSet], pruned_streams: Sequence[StreamSet]
    ) -> GramAccumulator:
        """Return sums over all tokens of the sets; each set's prefix counts once.

        The inputs are the block's intermediate activations on the pruned streams; the targets are
        the dense streams after this block minus the pruned residual.

        Args:
            dense_streams: the dense model's, after this block.
            pruned_streams: the pruned model's, before this block.
        """
        down = self.down
        device = down.weight.device
        gram = GramAccumulator(down.in_features, down.out_features, device)
        captured: dict[str, Tensor] = {}

        def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            captured["activation"], captured["output"] = inputs[0], output

        handle = down.register_forward_hook(keep)
        try:
            with torch.no_grad():
                for dense_set, pruned_set in zip(dense_streams, pruned_streams, strict=True):
                    targets = [b.stream for b in (dense_set.prefix, *dense_set.batches) if b]
                    outputs = run_block(self.model, self.block, self.layer, pruned_set)
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


def _down(block: nn.Module, copied: nn.Module, original: nn.Linear) -> nn.Linear:
    """Return the module of `copied` that corresponds to `original` in `block`."""
    for one, other in zip(block.modules(), copied.modules(), strict=True):
        if one is original and isinstance(other, nn.Linear):
            return other
    raise ValueError("the projection is not part of the block")
