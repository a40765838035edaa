"""Hard top-k with a straight-through gradient."""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


class _HardTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        return top_k_mask(scores, k).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def hard_top_k(scores: Tensor, k: int) -> Tensor:
    """Return the binary mask of the k largest scores of each row, with a straight-through gradient.

    Forward: exactly k ones per row; of equal scores the lower index wins. Backward: the identity,
    so the gradient of a score is the gradient of its mask entry (straight-through estimator,
    Bengio et al. 2013; Persona-Pruner learns its masks with it).

    Args:
        scores: `[n_layers, d_ff]`, float.
        k: channels kept in each row, 1 to d_ff.

    Returns:
        0/1 floats of the shape and type of `scores`.

    Raises:
        InputError: a score is not a number, or k is out of range.
    """
    mask: Tensor = _HardTopK.apply(scores, k)  # type: ignore[no-untyped-call]
    return mask


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Return the bool mask of the k largest entries along the last dimension; no gradient.

    Raises:
        InputError: a score is not a number, or k is out of range.
    """
    channels = scores.shape[-1]
    if not 1 <= k <= channels:
        raise InputError(
            f"can't keep {k} of {channels} channels", hint="Lower spec.pruning.sparsityPercent"
        )
    detached = scores.detach()
    if bool(torch.isnan(detached).any()):
        raise InputError(
            "the mask scores contain NaN: the training diverged",
            hint="Lower spec.pruning.straightThrough.learningRate",
        )
    kept = detached.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(
        -1, kept, True
    )
