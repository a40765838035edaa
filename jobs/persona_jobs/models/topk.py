"""Hard top-k with a straight-through gradient, and the width that a sparsity asks for."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

# How far rounding to the alignment may move the kept width, as a share of d_ff.
MAX_ROUNDING = 0.05


class _HardTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        return top_k_mask(scores, k).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def hard_top_k(scores: Tensor, k: int) -> Tensor:
    """Binary mask of the k largest scores of each row, differentiable straight through.

    Forward: exactly k ones a row; of equal scores the lower index wins. Backward: the identity, so
    the gradient of a score is the gradient of its mask entry (straight-through estimator, Bengio
    et al. 2013; Persona-Pruner learns its masks with it).

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
    """Bool mask of the k largest entries along the last dimension; no gradient.

    Raises:
        InputError: a score is not a number, or k is out of range.
    """
    width = scores.shape[-1]
    if not 1 <= k <= width:
        raise InputError(f"can't keep {k} of {width} channels", hint="Lower sparsityPercent")
    detached = scores.detach()
    if bool(torch.isnan(detached).any()):
        raise InputError(
            "the mask scores hold NaN: the training diverged",
            hint="Lower the learning rate, or use compute.dtype Float32",
        )
    kept = detached.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(
        -1, kept, True
    )


@dataclass(frozen=True)
class KeptWidth:
    """How many channels stay in every layer.

    Attributes:
        width: kept channels, a multiple of `alignment_used` (or d_ff itself at sparsity 0).
        alignment_used: the alignment that the width is a multiple of.
        lowered: whether that is less than the alignment asked for.
    """

    width: int
    alignment_used: int
    lowered: bool


def kept_width(d_ff: int, sparsity_percent: int, alignment: int) -> KeptWidth:
    """The width to keep: `d_ff * (1 - sparsity)` rounded to the alignment, ties upwards.

    At least one alignment stays, and at least one channel goes where the sparsity is above 0. The
    alignment is halved (256, 128, ... 8, then 1) while rounding to it would move the width by more
    than 5 % of d_ff, which happens with small models only.

    Args:
        d_ff: FFN intermediate channels of the base model.
        sparsity_percent: channels to remove, 0 to 99 percent.
        alignment: wanted divisor of the kept width (256 for K-quants).

    Raises:
        InputError: an argument is out of range.
    """
    if not 0 <= sparsity_percent <= 99:
        raise InputError(
            f"sparsity {sparsity_percent} % is out of range",
            hint="Choose 0 to 99",
            subject="spec.pruning.sparsityPercent",
        )
    if alignment < 1:
        raise InputError(f"alignment {alignment} is below 1", subject="spec.pruning.alignment")
    if sparsity_percent == 0:
        return KeptWidth(d_ff, alignment, lowered=False)
    if d_ff < 2:
        raise InputError(f"an FFN of width {d_ff} can't be pruned", subject="spec.baseModel")
    target = d_ff * (100 - sparsity_percent) / 100
    used = alignment
    while used > 1 and not _rounds_well(target, used, d_ff):
        used = used // 2 if used > 8 and used % 2 == 0 else 1
    return KeptWidth(_round_to(target, used, d_ff), used, lowered=used < alignment)


def _rounds_well(target: float, alignment: int, d_ff: int) -> bool:
    if alignment >= d_ff:  # no multiple of the alignment is below d_ff
        return False
    return abs(_round_to(target, alignment, d_ff) - target) <= MAX_ROUNDING * d_ff


def _round_to(target: float, alignment: int, d_ff: int) -> int:
    """`target` rounded to a multiple of `alignment` in [alignment, d_ff)."""
    largest = (d_ff - 1) // alignment * alignment
    return min(max(math.floor(target / alignment + 0.5) * alignment, alignment), largest)
