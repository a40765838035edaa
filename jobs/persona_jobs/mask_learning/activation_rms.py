"""Root mean square (RMS) of each FFN intermediate channel's activation on a data set."""

from typing import Any

import torch
from torch import Tensor, nn

from ..models.compute import device_of
from ..models.families import ffn_layers
from ..models.prefix import forward_suffixes, run_prefix
from ..training.tokens import TokenizedSet


def activation_rms(model: Any, data: TokenizedSet) -> Tensor:
    """Return the RMS over all tokens after the shared prefix, `[n_layers, d_ff]` float32.

    The prefix is left out: it is the same in every row, and its first token is an attention sink
    whose activations are hundreds of times larger than all others.

    Args:
        model: the dense model.
        data: the persona's training examples.
    """
    layers = ffn_layers(model)
    total = torch.zeros(len(layers), layers[0].intermediate_size, dtype=torch.float64)
    valid: Tensor | None = None

    def add(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor]) -> None:
            if valid is not None:
                activation = args[0][valid.to(args[0].device)].float()  # [tokens, d_ff]
                total[index] += activation.square().sum(dim=0).double().cpu()

        return hook

    handles = [layer.down.register_forward_pre_hook(add(layer.index)) for layer in layers]
    try:
        with torch.no_grad():
            prefix = run_prefix(model, data.prefix)
            for rows in data.batches():
                suffixes = [data.suffixes[row] for row in rows]
                valid = _valid(suffixes, device_of(model))
                forward_suffixes(model, prefix, suffixes, positions="last")
                valid = None
    finally:
        for handle in handles:
            handle.remove()
    return (total / max(1, data.tokens)).sqrt().float()


def _valid(suffixes: list[list[int]], device: torch.device) -> Tensor:
    """Return bool `[rows, longest]`, False on padding."""
    lengths = torch.tensor([len(suffix) for suffix in suffixes], device=device)
    return torch.arange(int(lengths.max()), device=device) < lengths.unsqueeze(1)
