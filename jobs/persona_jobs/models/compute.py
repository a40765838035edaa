"""Choice of the device and number format of all stages.

bfloat16 only pays off where the hardware multiplies bfloat16 matrices: without such
instructions a processor emulates them, several times slower than float32.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ..errors import InputError

DeviceChoice = Literal["Auto", "CPU", "CUDA"]
DtypeChoice = Literal["Auto", "Float32", "BFloat16"]

# Values of ONEDNN_MAX_CPU_ISA that keep bfloat16 instructions in use (oneDNN, "CPU dispatcher
# control"); any other value caps oneDNN below them.
_ONEDNN_BF16_ISA = {
    "AVX512_CORE_BF16",
    "AVX512_CORE_FP16",
    "AVX512_CORE_AMX",
    "AVX512_CORE_AMX_FP16",
    "AVX10_1_512",
    "AVX10_1_512_AMX",
    "AVX10_1_512_AMX_FP16",
    "AVX10_2_512",
    "AVX10_2_512_AMX_2",
    "DEFAULT",
    "ALL",
}
_CPUINFO = Path("/proc/cpuinfo")


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


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's weights."""
    return next(module.parameters()).device


def resolve(device: DeviceChoice = "Auto", dtype: DtypeChoice = "Auto") -> Compute:
    """Choose the device and the number format, asking the hardware where the choice is `Auto`.

    Raises:
        InputError: the spec asks for CUDA and no GPU is usable.
    """
    use_cuda = device == "CUDA" or (device == "Auto" and torch.cuda.is_available())
    if use_cuda and not torch.cuda.is_available():
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
    supported, why = _cuda_bfloat16() if use_cuda else _cpu_bfloat16()
    return Compute(chosen, torch.bfloat16 if supported else torch.float32, why)


def _cuda_bfloat16() -> tuple[bool, str]:
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return True, f"bfloat16: {name} multiplies bfloat16 matrices"
    return False, f"float32: {name} has no bfloat16 matrix instructions"


def _cpu_bfloat16() -> tuple[bool, str]:
    capability = os.environ.get("ATEN_CPU_CAPABILITY", "").strip().lower()
    if capability in {"default", "avx2"}:
        return False, f"float32: ATEN_CPU_CAPABILITY={capability} rules bfloat16 instructions out"
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "").strip().upper()
    if isa and isa not in _ONEDNN_BF16_ISA:
        return False, f"float32: ONEDNN_MAX_CPU_ISA={isa} rules bfloat16 instructions out"
    if instructions := _bfloat16_instructions():
        return True, f"bfloat16: the processor has {instructions}"
    return False, "float32: the processor has no bfloat16 matrix instructions"


def _bfloat16_instructions() -> str | None:
    """Return the name of the processor's bfloat16 matrix instructions, or None."""
    flags = _cpuinfo_flags()
    x86 = platform.machine().lower() in {"x86_64", "amd64", "i686"}
    if not x86:
        return "bf16" if "bf16" in flags else None
    # torch's probes also check that the operating system saves the registers, so they win over
    # the flags; they are private, so a later release may drop them.
    probes = {
        "amx_tile": ("_is_amx_tile_supported", {"amx_tile", "amx_bf16"}),
        "avx512_bf16": ("_is_avx512_bf16_supported", {"avx512_bf16"}),
    }
    for name, (probe, needed) in probes.items():
        ask = getattr(torch.cpu, probe, None)
        if bool(ask()) if callable(ask) else needed <= flags:
            return name
    return None


def _cpuinfo_flags() -> set[str]:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return set(value.lower().split())
    return set()
