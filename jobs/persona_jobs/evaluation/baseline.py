"""The baseline beside the learned mask: the channels with the largest activation RMS.

Same width, same recovery; only the choice of the channels differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.slicing import sliced_copy
from ..models.topk import top_k_mask

Recover = Callable[[Any, Tensor], Any]
"""(cut model, its mask `[n_layers, d_ff]`) to the recovered model; may change the cut model."""


@dataclass(frozen=True)
class Baseline:
    """The baseline model.

    Attributes:
        model: cut and, where recovery is on, recovered.
        mask: bool `[n_layers, d_ff]`, the channels that it keeps.
    """

    model: Any
    mask: Tensor


def make_baseline(
    dense: Any, activation_rms: Tensor, width: int, recover: Recover | None
) -> Baseline:
    """Cut the dense model to the channels with the largest activation RMS, and recover it.

    Args:
        dense: the uncut model; it stays as it is.
        activation_rms: `[n_layers, d_ff]`, root mean square of each channel's activation on the
            persona's training data.
        width: channels to keep in each layer.
        recover: the same recovery as the learned mask's, or None without one.
    """
    mask = top_k_mask(activation_rms, width).cpu()
    model = sliced_copy(dense, mask)
    return Baseline(model if recover is None else recover(model, mask), mask)
