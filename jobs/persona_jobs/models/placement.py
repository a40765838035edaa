"""Where a model's blocks go: on one device, or spread over all GPUs of the pod.

A base model that fills one GPU leaves no room for activations, so it is spread block by block with
accelerate's device map; activations move from GPU to GPU between blocks. Masks, hooks and caches
follow the device of their layer.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import OutOfMemoryError

# Of each GPU's free memory, the part that weights may fill: the first leaves room for the
# activations and gradients of mask learning, the second for inference.
WEIGHT_SHARES = (0.7, 0.9)


def free_memory() -> dict[int, int]:
    """Return the free bytes of each GPU by index; empty without GPUs."""
    return {
        index: int(torch.cuda.mem_get_info(index)[0]) for index in range(torch.cuda.device_count())
    }


def device_map(
    model: Any, dtype: torch.dtype, free: Mapping[int, int]
) -> dict[str, int | str] | None:
    """Return which GPU holds which part of a model, or None if the first one holds all of it.

    Args:
        model: the model without weights (`loading.empty_model`).
        dtype: the number format of the weights.
        free: free bytes of each GPU by index.

    Raises:
        OutOfMemoryError: all GPUs together don't hold it.
    """
    from accelerate import infer_auto_device_map

    weights = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    if len(free) < 2 or weights <= WEIGHT_SHARES[0] * free[min(free)]:
        return None
    for share in WEIGHT_SHARES:
        found: dict[str, int | str] = infer_auto_device_map(
            model,
            max_memory={index: int(share * size) for index, size in free.items()},
            no_split_module_classes=model._no_split_modules,
            dtype=dtype,
        )
        if all(isinstance(place, int) for place in found.values()):
            return found
    raise OutOfMemoryError(
        f"The base model's weights take {weights / 2**30:.1f} GiB, and the {len(free)} GPUs have "
        f"{sum(free.values()) / 2**30:.1f} GiB free, block by block too little",
        hint="Give the stage more or larger GPUs",
    )
