"""Stopping within a forward pass."""

from collections.abc import Callable
from typing import Any

from torch import nn

from .families import blocks


def stop_between_blocks(model: nn.Module, check: Callable[[], None]) -> None:
    """Call `check` before every decoder block; what it raises ends the forward pass.

    One batch can take minutes on a processor, one block seconds. Copies of the model, and of its
    blocks, call it too.
    """

    def before(_block: nn.Module, _inputs: tuple[Any, ...]) -> None:
        check()

    for block in blocks(model):
        block.register_forward_pre_hook(before)
