"""Residual streams of a data set, passed through a model one block at a time.

The streams lie in memory-mapped files, so that memory does not grow with the data. A set's shared
prefix is one row of its own, which every other row attends to.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.compute import device_of
from ..models.families import position_embeddings
from ..models.prefix import EMPTY_PREFIX, CausalAttention, PrefixCache
from ..training.tokens import TokenizedSet


@dataclass
class StreamBatch:
    """Rows of similar length, right-padded.

    Attributes:
        stream: residual stream `[rows, seq, hidden]` float32, memory-mapped.
        valid: bool `[rows, seq]`, False on padding.
        past: tokens of the prefix before these rows.
    """

    stream: Tensor
    valid: Tensor
    past: int


@dataclass(frozen=True)
class WeightedSet:
    """Examples and their share of a loss.

    Attributes:
        tokens: the examples; they share a prefix.
        weight: their share; the loss is the mean over their tokens times this.
    """

    tokens: TokenizedSet
    weight: float


@dataclass
class StreamSet:
    """A data set's streams: the prefix first, where it is not empty, then the suffixes.

    Attributes:
        prefix: one row, or None.
        batches: the suffixes.
        weight: the set's share of a loss.
    """

    prefix: StreamBatch | None
    batches: list[StreamBatch]
    weight: float

    def parts(self) -> list[StreamBatch]:
        """Return the prefix and the batches, in the order of `run_block`."""
        return [*([] if self.prefix is None else [self.prefix]), *self.batches]


@contextmanager
def embedded(
    model: Any, sets: Sequence[WeightedSet], scratch: Path
) -> Iterator[tuple[list[StreamSet], list[StreamSet]]]:
    """Yield two copies of the sets' token embeddings: the dense and the sliced model's streams."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="streams-") as directory:
        folder = Path(directory)
        counter = iter(range(1_000_000_000))

        def embed(ids: Tensor) -> Tensor:
            embeddings = model.get_input_embeddings()(ids.to(device_of(model))).float().cpu()
            path = folder / f"{next(counter)}.f32"
            mapped = torch.from_file(
                str(path), shared=True, size=embeddings.numel(), dtype=torch.float32
            ).view(embeddings.shape)
            mapped.copy_(embeddings)
            return mapped

        with torch.no_grad():
            dense, sliced = (
                [_stream_set(data, embed) for data in sets if len(data.tokens)] for _ in range(2)
            )
        yield dense, sliced


def _stream_set(weighted: WeightedSet, embed: Any) -> StreamSet:
    data = weighted.tokens
    prefix = None
    past = len(data.prefix)
    if past:
        ids = torch.tensor([data.prefix])
        prefix = StreamBatch(embed(ids), torch.ones_like(ids, dtype=torch.bool), 0)
    batches = []
    for rows in data.batches():
        suffixes = [data.suffixes[row] for row in rows]
        longest = max(len(suffix) for suffix in suffixes)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        valid = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, suffix in enumerate(suffixes):
            ids[row, : len(suffix)] = torch.tensor(suffix)
            valid[row, : len(suffix)] = True
        batches.append(StreamBatch(embed(ids), valid, past))
    return StreamSet(prefix, batches, weighted.weight)


def run_block(
    model: Any, block: nn.Module, layer: int, streams: StreamSet
) -> Iterator[tuple[StreamBatch, Tensor]]:
    """Yield the output of one block on every batch of a set, `[rows, seq, hidden]` float32.

    Call it inside `models.attention.attention_installed`. The prefix comes first; its keys and
    values of this block serve the other batches.
    """
    cache = EMPTY_PREFIX
    if streams.prefix is not None:
        attention = CausalAttention(record=True)
        output = _forward(model, block, layer, streams.prefix, attention)
        # Indexed by layer; only this one is read.
        cache = PrefixCache(
            (attention.keys[0],) * (layer + 1),
            (attention.values[0],) * (layer + 1),
            streams.prefix.stream.shape[1],
        )
        yield streams.prefix, output
    for batch in streams.batches:
        yield batch, _forward(model, block, layer, batch, CausalAttention(cache))


def _forward(
    model: Any, block: nn.Module, layer: int, batch: StreamBatch, attention: CausalAttention
) -> Tensor:
    hidden_states = batch.stream.to(device_of(block))
    positions = torch.arange(
        batch.past, batch.past + hidden_states.shape[1], device=hidden_states.device
    ).unsqueeze(0)
    output = block(
        hidden_states,
        attention_mask=None,
        position_ids=positions,
        position_embeddings=position_embeddings(model, layer, hidden_states, positions),
        attention_backend=attention,
    )
    return output if isinstance(output, Tensor) else output[0]
