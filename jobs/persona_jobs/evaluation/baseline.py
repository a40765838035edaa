"""The baseline beside the learned mask: the channels with the largest activation RMS.

It has the same width and the same recovery; only the choice of the channels differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.slicing import sliced_copy
from ..models.topk import top_k_mask

Recover = Callable[[Any], None]
"""Recovers a sliced model in place."""


@dataclass(frozen=True)
class Baseline:
    """The baseline model.

    Attributes:
        model: the sliced model, recovered where recovery is on.
        mask: bool `[n_layers, d_ff]`, the channels that it keeps.
    """

    model: Any
    mask: Tensor


def make_baseline(
    dense: Any, activation_rms: Tensor, width: int, recover: Recover | None
) -> Baseline:
    """Slice the dense model to the channels with the largest activation RMS, and recover it.

    Args:
        dense: the dense model; it stays unchanged.
        activation_rms: `[n_layers, d_ff]`, root mean square of each channel's activation on the
            persona's training data.
        width: channels to keep in each layer.
        recover: the same recovery as the learned mask's, or None without one.
    """
    mask = top_k_mask(activation_rms, width).cpu()
    model = sliced_copy(dense, mask)
    if recover is not None:
        recover(model)
    return Baseline(model, mask)
