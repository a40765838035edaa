"""Masked forward: the FFN intermediate activation times a mask, without a change to the weights.

The mask is applied to the input of `down_proj`, so a channel with mask 0 contributes nothing and
the masked model equals the model with that channel removed. A 0/1 vector there is an IA3 vector
(Liu et al. 2022), which is why rows of one batch may have different masks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

from torch import Tensor, nn

from ..errors import InputError
from .families import FfnLayer, ffn_layers

_masked_models: "WeakSet[nn.Module]" = WeakSet()


@contextmanager
def masked(model: nn.Module, masks: Tensor) -> Iterator[None]:
    """Run the model's forward passes inside this context with `masks` on its FFN activations.

    Args:
        model: a causal language model of a supported family.
        masks: `[n_layers, d_ff]`, one mask for every row, or `[batch, n_layers, d_ff]`, one mask
            per batch row (then every forward pass must have exactly `batch` rows). Any float,
            integer or bool type. Gradients of the loss flow into a tensor that has a graph.

    Raises:
        InputError: the mask's shape doesn't fit the model or the batch.
        RuntimeError: the model is masked already; leave that context first.
    """
    layers = ffn_layers(model)
    check_mask_shape(layers, masks)
    if model in _masked_models:
        raise RuntimeError("the model is masked already: leave the outer `masked` context first")
    # Converted once, here: each forward pass then costs one multiplication per layer.
    weights = [layer.down.weight for layer in layers]
    rows = {
        device: masks.to(device=device, dtype=weights[0].dtype).unbind(dim=-2)
        for device in {weight.device for weight in weights}
    }
    _masked_models.add(model)
    handles = []
    try:
        for layer, weight in zip(layers, weights, strict=True):
            row = rows[weight.device][layer.index]
            handles.append(layer.down.register_forward_pre_hook(_multiply_by(row)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        _masked_models.discard(model)


def check_mask_shape(layers: Sequence[FfnLayer], masks: Tensor) -> None:
    """Raise InputError unless `masks` fits the layers (see `masked`)."""
    sizes = {layer.intermediate_size for layer in layers}
    expected = (len(layers), layers[0].intermediate_size)
    if len(sizes) > 1 or masks.dim() not in {2, 3} or tuple(masks.shape[-2:]) != expected:
        raise InputError(
            f"a mask of shape {list(masks.shape)} doesn't fit a model with {len(layers)} layers of "
            f"{'/'.join(str(size) for size in sorted(sizes))} FFN channels",
            hint="Use the mask with the base model it was learned for",
        )


def _multiply_by(row: Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    if row.dim() == 1:  # [d_ff]

        def multiply(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0] * row,)

        return multiply

    batch = row.shape[0]
    spread = row.unsqueeze(1)  # [batch, 1, d_ff]

    def multiply_rows(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        activation = args[0]  # [batch, seq, d_ff]
        if activation.dim() != 3 or activation.shape[0] != batch:
            raise InputError(
                f"{batch} masks were given for a batch of {activation.shape[0]} rows",
                hint="Give one mask for each row, or one mask for all",
            )
        return (activation * spread,)

    return multiply_rows
