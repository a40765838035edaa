"""Choice of the device and number format of a model.

`Auto` means bfloat16 on CUDA and float32 on every processor. It depends on nothing else of the
machine: the same spec gives the same results on all processors.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..errors import InputError

DeviceChoice = Literal["Auto", "CPU", "CUDA"]
DtypeChoice = Literal["Auto", "Float32", "BFloat16"]


@dataclass(frozen=True)
class Compute:
    """Where and in which number format a model runs.

    Attributes:
        device: the torch device.
        dtype: the number format of weights and activations.
        reason: why these were chosen, one clause for the manifest and the log.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """The format's name without torch's prefix, such as `float32`."""
        return str(self.dtype).removeprefix("torch.")


def has_cuda() -> bool:
    """Return whether torch finds a GPU."""
    return torch.cuda.is_available()


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's weights."""
    return next(module.parameters()).device


def resolve(device: DeviceChoice = "Auto", dtype: DtypeChoice = "Auto") -> Compute:
    """Choose the device and the number format.

    Raises:
        InputError: the spec asks for CUDA and no GPU is usable.
    """
    use_cuda = device == "CUDA" or (device == "Auto" and has_cuda())
    if use_cuda and not has_cuda():
        raise InputError(
            "the spec asks for device CUDA, but torch finds no GPU",
            hint="Set spec.compute.device to Auto or CPU, or give the stage a GPU",
            subject="spec.compute.device",
        )
    chosen = torch.device("cuda" if use_cuda else "cpu")
    if dtype == "Float32":
        return Compute(chosen, torch.float32, "float32 as the spec asks")
    if dtype == "BFloat16":
        return Compute(chosen, torch.bfloat16, "bfloat16 as the spec asks")
    if use_cuda:
        return Compute(chosen, torch.bfloat16, "bfloat16, the default on CUDA")
    return Compute(chosen, torch.float32, "float32, the default on a CPU")
