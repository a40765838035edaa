"""Self-attention over a shared prefix: one copy of its keys and values serves every batch row.

transformers calls the attention function registered here with the keyword arguments that the
decoder's forward was given, so an `AttentionBackend` passed as `attention_backend` reaches every
layer. It replaces the library's cache and its attention masks: rows are right-padded, so
causality alone keeps padding from the valid tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from .families import decoder

_NAME = "persona_attention_backend"


class AttentionBackend(Protocol):
    """Attention of one forward pass, called once by every layer."""

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
        """Return the attention output `[batch, heads, seq, head_dim]`.

        Args:
            layer: index of the decoder block.
            query: `[batch, heads, seq, head_dim]`, rotary embedding applied.
            key: `[batch, kv_heads, seq, head_dim]` of the same tokens, rotary embedding applied.
            value: `[batch, kv_heads, seq, head_dim]` of the same tokens.
            scale: factor on the dot products.
            window: tokens that a sliding-window layer sees, its own included; None: all.
            softcap: bound of the scores: they become `softcap * tanh(scores / softcap)`; None: no
                bound.
        """
        ...


@contextmanager
def attention_installed(model: nn.Module) -> Iterator[None]:
    """Make the model's layers call the `attention_backend` given to its decoder's forward."""
    config: Any = decoder(model).config
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
    softcap: float | None = None,
) -> Tensor:
    """Compute scaled dot-product attention with grouped heads by the device's fastest kernel.

    Args:
        query: `[batch, heads, seq, head_dim]`.
        key: `[batch, kv_heads, kv_seq, head_dim]`.
        value: as `key`.
        scale: factor on the dot products.
        mask: bool, broadcastable to `[batch, heads, seq, kv_seq]`; True where attention is allowed.
        causal: each query sees the keys up to its own index (needs kv_seq == seq and no mask).
        softcap: bound of the scores, see `AttentionBackend.attend`; no fused kernel has one.
    """
    groups = query.shape[1] // key.shape[1]
    if softcap is not None:
        if causal:
            mask = causal_mask(query.shape[2], 0, window=None, device=query.device)
        return _attend_capped(query, key, value, scale=scale, mask=mask, softcap=softcap)
    if groups > 1 and mask is not None and query.device.type == "cuda":
        # No fused CUDA kernel takes a mask and grouped heads together.
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
        groups = 1
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=groups > 1
    )


def _attend_capped(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, mask: Tensor | None, softcap: float
) -> Tensor:
    batch, heads, seq, size = query.shape
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], seq, size)
    scores = capped((grouped * scale) @ key.unsqueeze(2).transpose(3, 4), softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value.unsqueeze(2)).flatten(1, 2)


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Return `softcap * tanh(scores / softcap)`, or the scores as they are without a soft cap."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def causal_mask(rows: int, past: int, *, window: int | None, device: torch.device) -> Tensor:
    """Return bool `[rows, past + rows]`: i sees j when `i + past - window < j <= i + past`."""
    query_at = torch.arange(past, past + rows, device=device).unsqueeze(1)
    key_at = torch.arange(past + rows, device=device).unsqueeze(0)
    allowed = key_at <= query_at
    if window is not None:
        allowed &= key_at > query_at - window
    return allowed


def _call_backend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attention_backend: AttentionBackend,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    output = attention_backend.attend(
        layer, query, key, value, scale=scaling, window=sliding_window, softcap=softcap
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _call_backend)
