"""The variants of a model that are compared, and their size."""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.slicing import slice_model


def cut(dense: Any, mask: Tensor, *, scales: Tensor | None = None) -> Any:
    """The dense model with the masked-out channels removed, no recovery.

    It shares all weights but the cut ones with `dense`, so it costs only those; `dense` stays as
    it is.

    Args:
        dense: the uncut model.
        mask: `[n_layers, d_ff]`, the same number of ones in each row.
        scales: `[n_layers, d_ff]` factors of the channels, or None.
    """
    shared: Iterable[Tensor] = (*dense.parameters(), *dense.buffers())
    sliced = copy.deepcopy(dense, {id(tensor): tensor for tensor in shared})
    slice_model(sliced, mask, scales=scales)
    return sliced


def checkpoint_bytes(directory: Path) -> int:
    """Bytes of the safetensors files that hold a checkpoint's weights."""
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sum((directory / name).stat().st_size for name in names)
    if single.is_file():
        return single.stat().st_size
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
