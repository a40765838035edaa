"""One block in float32, fitted to a residual stream: what the closed-form methods share."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..models.families import blocks, ffn_layers, ffn_norm
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
        down = _copy_of(ffn_layers(model)[layer].down, original, copied)
        return cls(model, copied, cast(nn.Linear, down), layer)

    def copy_of(self, module: nn.Module) -> nn.Module:
        """Return the copy of `module`, a part of the original block."""
        return _copy_of(module, blocks(self.model)[self.layer], self.block)

    def advance(self, streams: StreamSet) -> None:
        """Replace the streams by the block's output on them."""
        with torch.no_grad():
            for batch, output in run_block(self.model, self.block, self.layer, streams):
                batch.stream.copy_(output)

    def gram(
        self, dense_streams: Sequence[StreamSet], pruned_streams: Sequence[StreamSet]
    ) -> GramAccumulator:
        """Return means over the tokens of each set, added up with the sets' weights.

        Each set's prefix counts once.

        The inputs are the block's intermediate activations on the pruned streams; the targets are
        the dense streams after this block minus the pruned residual. Where a norm follows the FFN
        (Gemma), they are outputs that the norm maps to that difference, of the size that the FFN's
        output has; each token's row is divided by this size, which makes the squared error that
        behind the norm, to first order.

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
                    targets = [part.stream for part in dense_set.parts()]
                    tokens = sum(int(part.valid.sum()) for part in pruned_set.parts())
                    weight = pruned_set.weight / tokens
                    outputs = run_block(self.model, self.block, self.layer, pruned_set)
                    for target, (batch, output) in zip(targets, outputs, strict=True):
                        wanted, size = self._target(output, captured["output"], target.to(device))
                        if down.bias is not None:
                            wanted = wanted - down.bias
                        valid = batch.valid.to(device)
                        activation = captured["activation"] / size
                        gram.add(activation[valid], (wanted / size)[valid], weight=weight)
        finally:
            handle.remove()
        return gram

    def _target(
        self, output: Tensor, ffn_output: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """Return what `down` should put out, and the divisor of each token's row.

        Args:
            output: the block's output `[rows, seq, hidden]`.
            ffn_output: what `down` puts out now.
            target: what the block should put out.
        """
        norm = ffn_norm(self.model, self.block)
        if norm is None:
            return target - (output - ffn_output), 1.0
        wanted = target - (output - norm(ffn_output))
        gains = norm(torch.ones_like(ffn_output[:1, :1]))  # [1, 1, hidden]
        direction = wanted * gains / (gains.square() + 1e-6 * gains.square().mean())
        size = _rms(ffn_output).clamp_min(torch.finfo(torch.float32).tiny)
        return direction * (size / _rms(direction).clamp_min(torch.finfo(torch.float32).tiny)), size


def _rms(values: Tensor) -> Tensor:
    return values.square().mean(dim=-1, keepdim=True).sqrt()


def _copy_of(module: nn.Module, block: nn.Module, copied: nn.Module) -> nn.Module:
    """Return the module of `copied` that corresponds to `module` in `block`."""
    for one, other in zip(block.modules(), copied.modules(), strict=True):
        if one is module:
            return other
    raise ValueError("the module is not part of the block")
