"""Root mean square of each FFN intermediate channel's activation on a data set."""

from typing import Any

import torch
from torch import Tensor, nn

from ..models.batching import length_sorted_batches
from ..models.families import ffn_layers
from ..models.prefix import forward_rests, run_prefix
from ..training.passes import EVALUATION_TOKENS
from ..training.tokens import TokenizedSet


def activation_rms(model: Any, data: TokenizedSet) -> Tensor:
    """RMS over all tokens after the shared prefix, `[n_layers, d_ff]` float32.

    The prefix is left out: it is the same in every row, and its first token is an attention sink
    whose activations are hundreds of times larger than all others.

    Args:
        model: the dense model.
        data: the persona's training examples.
    """
    layers = ffn_layers(model)
    total = torch.zeros(len(layers), layers[0].width, dtype=torch.float64)
    valid: Tensor | None = None

    def add(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor]) -> None:
            if valid is not None:
                activation = args[0][valid].float()  # [tokens, d_ff]
                total[index] += activation.square().sum(dim=0).double().cpu()

        return hook

    handles = [layer.down.register_forward_pre_hook(add(layer.index)) for layer in layers]
    try:
        with torch.no_grad():
            prefix = run_prefix(model, data.prefix)
            lengths = [len(rest) for rest in data.rests]
            for rows in length_sorted_batches(lengths, max_tokens=EVALUATION_TOKENS):
                rests = [data.rests[row] for row in rows]
                valid = _valid(rests, next(model.parameters()).device)
                forward_rests(model, prefix, rests, positions="last", logits=False)
                valid = None
    finally:
        for handle in handles:
            handle.remove()
    return (total / max(1, data.tokens)).sqrt().float()


def _valid(rests: list[list[int]], device: torch.device) -> Tensor:
    lengths = torch.tensor([len(rest) for rest in rests], device=device)
    return torch.arange(int(lengths.max()), device=device) < lengths.unsqueeze(1)
