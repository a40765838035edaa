"""The blocks from the bottom up, each with the residual streams that enter and leave it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.attention import attention_installed
from ..models.families import ffn_layers
from .block_fit import BlockCopy
from .streams import StreamSet, WeightedSet, embedded


@dataclass(frozen=True)
class Streams:
    """Residual streams around one block, set by set.

    Attributes:
        dense: the dense model's, after the block.
        pruned: the pruned model's, before the block; its lower blocks are fitted already.
    """

    dense: Sequence[StreamSet]
    pruned: Sequence[StreamSet]


@dataclass(frozen=True)
class BlockStep:
    """One block to fit.

    Attributes:
        block: a float32 copy of the pruned block, whose weights may be changed.
        mlp: the FFN in that copy.
        parameters: the FFN's weights in that copy, by their names in the model.
        down: name of the `down_proj` weight.
        train: streams to fit to.
        held_out: streams to judge by.
    """

    block: BlockCopy
    mlp: nn.Module
    parameters: Mapping[str, nn.Parameter]
    down: str
    train: Streams
    held_out: Streams

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy those of the weights that belong to this block into it."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if name in weights:
                    parameter.copy_(weights[name])


def walk(
    dense: Any,
    sliced: Any,
    train: Sequence[WeightedSet],
    held_out: Sequence[WeightedSet],
    *,
    scratch: Path,
    weights: Mapping[str, Tensor],
) -> Iterator[BlockStep]:
    """Yield every block of `sliced`, first to last; what the caller changes goes into `sliced`.

    The weights are rounded to the model's number format there, and the next block sees the streams
    that the rounded weights give.

    Args:
        dense: the dense model.
        sliced: the same model without the pruned channels.
        train: examples to fit to.
        held_out: examples to judge by; may be empty.
        scratch: directory for the residual streams (2 x tokens x hidden x 4 bytes).
        weights: float32 weights by name that replace the model's rounded ones in the copies.
    """
    names = {parameter: name for name, parameter in sliced.named_parameters()}
    with (
        attention_installed(dense),
        attention_installed(sliced),
        embedded(dense, train, scratch) as train_streams,
        embedded(dense, held_out, scratch) as held_out_streams,
    ):
        for layer in ffn_layers(sliced):
            whole = BlockCopy.of(dense, layer.index)
            for stream_set in (*train_streams[0], *held_out_streams[0]):
                whole.advance(stream_set)
            block = BlockCopy.of(sliced, layer.index)
            mlp = block.copy_of(layer.mlp)
            copies = dict(zip(layer.mlp.parameters(), mlp.parameters(), strict=True))
            step = BlockStep(
                block=block,
                mlp=mlp,
                parameters={names[original]: copied for original, copied in copies.items()},
                down=names[layer.down.weight],
                train=Streams(*train_streams),
                held_out=Streams(*held_out_streams),
            )
            step.load(weights)
            yield step
            with torch.no_grad():
                for original, copied in copies.items():
                    original.copy_(copied)
                    copied.copy_(original)
            for stream_set in (*train_streams[1], *held_out_streams[1]):
                block.advance(stream_set)
