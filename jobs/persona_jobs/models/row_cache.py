"""Forward pass over the new tokens of several sequences, each with keys and values of its own.

The new tokens of all sequences are packed into one batch row, so that the linear layers run once
for all of them; attention runs sequence by sequence and needs no padding. A sequence may have one
new token (decoding) or many (its prompt, in chunks), and may join or leave between two passes.
(Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models")
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import attend, attention_installed, capped, causal_mask
from .compute import device_of
from .families import decoder

_ROOM = 64
"""Tokens that a buffer has room for beyond those it was made for."""


class RowCache:
    """Keys and values of one token sequence, in buffers that grow up to a limit.

    Attributes:
        length: tokens whose keys and values are valid.
        limit: tokens that the sequence may ever have.
    """

    def __init__(self, limit: int) -> None:
        self.length = 0
        self.limit = limit
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    @property
    def capacity(self) -> int:
        """Return the tokens that memory is allocated for."""
        return max((buffer.shape[1] for buffer in self._keys), default=0)

    def copy(self, length: int, limit: int) -> "RowCache":
        """Return a copy of the first `length` tokens that may grow to `limit` tokens."""
        copied = RowCache(limit)
        copied._keys = [_resized(keys, length, limit) for keys in self._keys]
        copied._values = [_resized(values, length, limit) for values in self._values]
        copied.length = length
        return copied

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Store the new tokens' keys and values and return their attention output.

        Args:
            layer: index of the decoder block.
            query: `[heads, new, head_dim]`.
            key: `[kv_heads, new, head_dim]`.
            value: as `key`.
            scale: factor on the dot products.
            window: tokens that a sliding-window layer sees, its own included; None: all.
            softcap: bound of the scores, see `AttentionBackend.attend`.

        Returns:
            `[heads, new, head_dim]`.
        """
        new, end = key.shape[1], self.length + key.shape[1]
        keys = self._store(self._keys, layer, key)[:, :end]
        values = self._store(self._values, layer, value)[:, :end]
        if new == 1:
            if window is not None:
                keys, values = keys[:, -window:], values[:, -window:]
            # One query per head: grouped heads read the one copy of their keys and values.
            grouped = query.reshape(len(keys), -1, query.shape[-1]) * scale
            scores = capped(grouped @ keys.transpose(1, 2), softcap)
            weights = scores.softmax(-1, dtype=torch.float32)
            return (weights.to(query.dtype) @ values).view(query.shape)
        mask = None
        if self.length or (window is not None and end > window):
            mask = causal_mask(new, self.length, window=window, device=query.device)
        return attend(
            query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0),
            scale=scale, mask=mask, causal=mask is None, softcap=softcap,
        )[0]  # fmt: skip

    def _store(self, buffers: list[Tensor], layer: int, new: Tensor) -> Tensor:
        end = self.length + new.shape[1]
        if layer == len(buffers):
            buffers.append(_resized(new[:, :0], 0, self.limit, end))
        elif buffers[layer].shape[1] < end:
            buffers[layer] = _resized(buffers[layer], self.length, self.limit, end)
        buffers[layer][:, self.length : end] = new
        return buffers[layer]


def _resized(buffer: Tensor, length: int, limit: int, needed: int = 0) -> Tensor:
    """Return a buffer with the first `length` tokens of `buffer` and room for more."""
    wanted = max(length, needed, buffer.shape[1] * 3 // 2 if needed else 0) + _ROOM
    resized = buffer.new_zeros(buffer.shape[0], min(wanted, limit), buffer.shape[2])
    resized[:, :length] = buffer[:, :length]
    return resized


@dataclass
class _PackedRows:
    """An attention backend for new tokens of several sequences, one after the other."""

    caches: list[RowCache]
    counts: list[int]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Compute the attention as in `AttentionBackend.attend`; the batch is 1."""
        parts = zip(
            self.caches,
            torch.split(query[0], self.counts, dim=1),
            torch.split(key[0], self.counts, dim=1),
            torch.split(value[0], self.counts, dim=1),
            strict=True,
        )
        outputs = [
            cache.attend(layer, *tensors, scale=scale, window=window, softcap=softcap)
            for cache, *tensors in parts
        ]
        return torch.cat(outputs, dim=1).unsqueeze(0)


def run_rows(model: nn.Module, rows: Sequence[tuple[RowCache, Sequence[int]]]) -> Tensor:
    """Run new tokens of several sequences and add them to the sequences' caches.

    After an exception, the caches are as they were.

    Args:
        model: a causal language model of a supported family.
        rows: for each sequence, its cache and at least one new token id.

    Returns:
        The decoder's output at each sequence's last new token after the final norm, `[rows, d]`.
    """
    device = device_of(model)
    counts = [len(ids) for _, ids in rows]
    positions = [torch.arange(cache.length, cache.length + len(ids)) for cache, ids in rows]
    with attention_installed(model):
        output: Tensor = decoder(model)(
            input_ids=torch.tensor([[token for _, ids in rows for token in ids]], device=device),
            position_ids=torch.cat(positions).unsqueeze(0).to(device),
            use_cache=False,
            attention_backend=_PackedRows([cache for cache, _ in rows], counts),
        ).last_hidden_state
    for (cache, _), count in zip(rows, counts, strict=True):
        cache.length += count
    return output[0, torch.tensor(counts, device=device).cumsum(0) - 1]
