"""Pruning: removing the masked-out FFN channels from the weights."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .families import FfnLayer, ffn_layers
from .masking import check_mask_shape


def slice_model(model: Any, mask: Tensor, *, scales: Tensor | None = None) -> None:
    """Remove the channels that `mask` leaves out, in place.

    The rows of the expanding layers and the columns of `down` are removed, biases with them, and
    `config.intermediate_size` becomes the number of kept channels, so that the model is a plain one
    of its architecture. It then computes what it computed under `masking.masked`.

    Args:
        model: a causal language model of a supported family.
        mask: `[n_layers, d_ff]`, bool or 0/1; the same number of ones, at least one, in each row.
        scales: `[n_layers, d_ff]` factors of the channels' activations, folded into `down`.

    Raises:
        InputError: the mask doesn't fit the model, keeps no channel, or is uneven.
    """
    layers = ffn_layers(model)
    if mask.dim() != 2:
        raise InputError(f"a mask of shape {list(mask.shape)} is not one mask for a whole model")
    check_mask_shape(layers, mask)
    kept = mask.bool()
    if not torch.equal(kept.to(mask.dtype), mask):
        raise InputError("the mask contains values other than 0 and 1")
    counts = kept.sum(dim=1)
    count = int(counts[0])
    if count == 0 or int(counts.min()) != int(counts.max()):
        raise InputError(
            f"layers keep between {int(counts.min())} and {int(counts.max())} channels",
            hint="Keep the same number of channels, at least 1, in every layer",
        )
    if scales is not None and scales.shape != mask.shape:
        raise InputError(f"scales of shape {list(scales.shape)} don't match the mask")
    for layer, row in zip(layers, kept, strict=True):
        channels = row.nonzero().squeeze(1).to(layer.down.weight.device)
        _slice_layer(layer, channels, None if scales is None else scales[layer.index])
    model.config.intermediate_size = count


def sliced_copy(dense: Any, mask: Tensor, *, scales: Tensor | None = None) -> Any:
    """Return a copy of the dense model without the masked-out channels, not recovered.

    It shares all weights but the pruned ones with `dense`, so only those take memory; `dense` is
    not changed.

    Args:
        dense: the dense model.
        mask: `[n_layers, d_ff]`, the same number of ones in each row.
        scales: `[n_layers, d_ff]` factors of the channels, or None.
    """
    shared: Iterable[Tensor] = (*dense.parameters(), *dense.buffers())
    sliced = copy.deepcopy(dense, {id(tensor): tensor for tensor in shared})
    slice_model(sliced, mask, scales=scales)
    return sliced


def _slice_layer(layer: FfnLayer, channels: Tensor, scales: Tensor | None) -> None:
    for projection in layer.expanding:
        rows = layer.rows_of(projection, channels)
        _replace(projection, projection.weight.detach()[rows])
        if projection.bias is not None:
            bias = projection.bias.detach()[rows].clone()
            projection.bias = nn.Parameter(bias, requires_grad=projection.bias.requires_grad)
        projection.out_features = len(rows)
    columns = layer.down.weight.detach()[:, channels]
    if scales is not None:
        factors = scales.to(columns.device)[channels]
        columns = (columns.float() * factors.float()).to(columns.dtype)
    _replace(layer.down, columns)
    layer.down.in_features = len(channels)
    # The library's MLP modules store the size too; it only shows when they are printed.
    if hasattr(layer.mlp, "intermediate_size"):
        layer.mlp.intermediate_size = len(channels)  # type: ignore[assignment]


def _replace(projection: nn.Linear, weight: Tensor) -> None:
    projection.weight = nn.Parameter(
        weight.contiguous(), requires_grad=projection.weight.requires_grad
    )
