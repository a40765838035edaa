"""The number of channels to keep at a sparsity; needs no torch."""

import math
from dataclasses import dataclass

from ..errors import InputError

# How far rounding to the alignment may move the number of kept channels, as a share of all.
MAX_ROUNDING = 0.05


@dataclass(frozen=True)
class KeptChannels:
    """How many channels every layer keeps.

    Attributes:
        count: kept channels, a multiple of `alignment_used` (or all of them at sparsity 0).
        alignment_used: the alignment that the count is a multiple of.
        lowered: whether that is less than the alignment asked for.
    """

    count: int
    alignment_used: int
    lowered: bool


def kept_channels(intermediate_size: int, sparsity_percent: int, alignment: int) -> KeptChannels:
    """Return how many channels to keep: the sparsity's share rounded to the alignment, ties up.

    At least one alignment is kept, and at least one channel is removed where the sparsity is above
    0. The alignment is halved (256, 128, ... 8, then 1) while rounding to it would move the count
    by more than 5 % of all channels, which happens with small models only.

    Args:
        intermediate_size: FFN channels of the base model.
        sparsity_percent: channels to remove, 0 to 99 percent.
        alignment: wanted divisor of the count (256 for K-quants).

    Raises:
        InputError: an argument is out of range.
    """
    if not 0 <= sparsity_percent <= 99:
        raise InputError(
            f"a sparsity of {sparsity_percent} % is out of range",
            hint="Choose a sparsity from 0 to 99",
            subject="spec.pruning.sparsityPercent",
        )
    if alignment < 1:
        raise InputError(
            f"an alignment of {alignment} is below 1",
            hint="Choose an alignment of at least 1",
            subject="spec.pruning.alignment",
        )
    if sparsity_percent == 0:
        return KeptChannels(intermediate_size, alignment, lowered=False)
    if intermediate_size < 2:
        raise InputError(
            f"an FFN with {intermediate_size} channels can't be pruned",
            hint="Use a larger base model",
            subject="spec.baseModel",
        )
    target = intermediate_size * (100 - sparsity_percent) / 100
    used = alignment
    while used > 1 and not _rounds_well(target, used, intermediate_size):
        used = used // 2 if used > 8 and used % 2 == 0 else 1
    count = _round_to(target, used, intermediate_size)
    return KeptChannels(count, used, lowered=used < alignment)


def _rounds_well(target: float, alignment: int, intermediate_size: int) -> bool:
    if alignment >= intermediate_size:  # no multiple of the alignment is below it
        return False
    moved = abs(_round_to(target, alignment, intermediate_size) - target)
    return moved <= MAX_ROUNDING * intermediate_size


def _round_to(target: float, alignment: int, intermediate_size: int) -> int:
    """Round `target` to a multiple of `alignment` in [alignment, intermediate_size)."""
    largest = (intermediate_size - 1) // alignment * alignment
    return min(max(math.floor(target / alignment + 0.5) * alignment, alignment), largest)
