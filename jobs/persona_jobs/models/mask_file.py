"""The mask file: a persona as packed bits, with the identity of its base model.

A safetensors file with `mask` (uint8, `[n_layers, ceil(d_ff / 8)]`, channel i in bit `i % 8` of
byte `i // 8`), an optional `scales` (float32, `[n_layers, d_ff]`, one factor per channel, folded
into `down_proj` when the model is sliced), and string metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ..errors import CorruptArtifactError, InputError
from .families import ffn_layers

FORMAT = "persona-pruner.mask"
VERSION = 1
_HINT = "Delete the file and run the mask stage again"
_RESERVED = {
    "format",
    "format_version",
    "n_layers",
    "d_ff",
    "width",
    "base_model",
    "base_revision",
}


@dataclass(frozen=True)
class Mask:
    """Which FFN channels a persona keeps.

    Attributes:
        bits: bool `[n_layers, d_ff]`, True where the channel is kept; the same number in each row.
        base_model: URI of the base model that it belongs to.
        base_revision: revision of the base model, or None.
        scales: float `[n_layers, d_ff]`, a factor for each channel's activation, or None.
        metadata: more facts, as strings; names that the file format uses are refused.
    """

    bits: Tensor
    base_model: str
    base_revision: str | None = None
    scales: Tensor | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept_channels(self) -> int:
        """Channels kept in each layer."""
        return int(self.bits[0].sum())

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.bits.shape[0]

    @property
    def intermediate_size(self) -> int:
        """FFN channels of the dense model."""
        return self.bits.shape[1]


def save(path: Path, mask: Mask) -> None:
    """Write a mask file.

    Raises:
        InputError: the mask is not a bool matrix that keeps the same number of channels, at least
            one, in each row; or scales or metadata don't fit.
    """
    if problem := _problem(mask.bits, mask.scales):
        raise InputError(f"the mask can't be saved: {problem}")
    if taken := _RESERVED & mask.metadata.keys():
        raise InputError(f"mask metadata can't use the reserved name {sorted(taken)[0]!r}")
    tensors = {"mask": pack(mask.bits)}
    if mask.scales is not None:
        tensors["scales"] = mask.scales.detach().to("cpu", torch.float32).contiguous()
    metadata = {
        **mask.metadata,
        "format": FORMAT,
        "format_version": str(VERSION),
        "n_layers": str(mask.n_layers),
        "d_ff": str(mask.intermediate_size),
        "width": str(mask.kept_channels),
        "base_model": mask.base_model,
    }
    if mask.base_revision is not None:
        metadata["base_revision"] = mask.base_revision
    path.write_bytes(_sorted_header(serialize(tensors, metadata=metadata)))


def _sorted_header(data: bytes) -> bytes:
    """Return the same safetensors file with its header in sorted order.

    The library writes metadata in a random order; equal masks must be equal files, since they are
    identified by their checksums.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of 8
    return len(header).to_bytes(8, "little") + header + data[end:]


def load(path: Path) -> Mask:
    """Read a mask file and check all of it.

    Raises:
        InputError: the file does not exist, or its format is newer.
        CorruptArtifactError: it is truncated, altered, or not a mask file.
    """
    if not path.is_file():
        raise InputError(f"mask file {path} does not exist", subject=str(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"mask file {path} is not a readable safetensors file: {error}",
            hint=_HINT,
            subject=str(path),
        ) from error
    if metadata.get("format") != FORMAT:
        raise _corrupt(path, "it is not a mask file (its metadata names no such format)")
    if metadata.get("format_version") != str(VERSION):
        raise InputError(
            f"mask file {path} has format version {metadata.get('format_version')}, "
            f"this program reads version {VERSION}",
            hint="Use the version of persona-pruner that wrote it",
            subject=str(path),
        )
    return _from_parts(path, metadata, tensors)


def _from_parts(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Mask:
    try:
        n_layers, d_ff, width = (int(metadata[name]) for name in ("n_layers", "d_ff", "width"))
        base_model = metadata["base_model"]
    except (KeyError, ValueError) as error:
        raise _corrupt(path, f"metadata is missing or malformed ({error})") from error
    packed, scales = tensors.get("mask"), tensors.get("scales")
    if n_layers < 1 or d_ff < 1 or packed is None or packed.dtype != torch.uint8:
        raise _corrupt(path, "it has no packed mask")
    if tuple(packed.shape) != (n_layers, -(-d_ff // 8)):
        raise _corrupt(path, f"{list(packed.shape)} bytes can't hold {n_layers} x {d_ff} bits")
    if bool(unpack(packed, packed.shape[1] * 8)[:, d_ff:].any()):
        raise _corrupt(path, "the padding bits are not zero")
    bits = unpack(packed, d_ff)
    if problem := _problem(bits, scales):
        raise _corrupt(path, problem)
    if int(bits[0].sum()) != width:
        raise _corrupt(path, f"it keeps {int(bits[0].sum())} channels per layer, not {width}")
    others = {name: value for name, value in metadata.items() if name not in _RESERVED}
    return Mask(bits, base_model, metadata.get("base_revision"), scales, others)


def check_fits(mask: Mask, model: nn.Module) -> None:
    """Raise InputError unless the mask has the shape of the model's FFN layers."""
    layers = ffn_layers(model)
    shape = (len(layers), layers[0].intermediate_size)
    if (mask.n_layers, mask.intermediate_size) != shape:
        raise InputError(
            f"the mask is for {mask.n_layers} layers of {mask.intermediate_size} FFN channels, "
            f"the base model has {shape[0]} of {shape[1]}",
            hint=f"Use the base model {mask.base_model}",
        )


def check_base(mask: Mask, uri: str, revision: str | None) -> None:
    """Raise InputError unless the mask was learned on this base model in this revision."""
    if (mask.base_model, mask.base_revision) != (uri, revision):
        learned, given = (
            " ".join(filter(None, pair))
            for pair in ((mask.base_model, mask.base_revision), (uri, revision))
        )
        raise InputError(
            f"The mask was learned on {learned}, but the base model is {given}",
            hint="Delete the mask stage's folder in the store and run again",
            subject="spec.baseModel",
        )


def pack(bits: Tensor) -> Tensor:
    """Pack bool `[n_layers, d_ff]` into uint8 `[n_layers, ceil(d_ff / 8)]`, lowest bit first."""
    rows, d_ff = bits.shape
    padded = torch.zeros(rows, -(-d_ff // 8) * 8, dtype=torch.int32)
    padded[:, :d_ff] = bits.to("cpu", torch.int32)
    weights = 2 ** torch.arange(8, dtype=torch.int32)
    return (padded.view(rows, -1, 8) * weights).sum(dim=-1).to(torch.uint8)


def unpack(packed: Tensor, d_ff: int) -> Tensor:
    """Unpack what `pack` packed into bool `[n_layers, d_ff]`."""
    bits = (packed.unsqueeze(-1).to(torch.int32) >> torch.arange(8, dtype=torch.int32)) & 1
    return bits.flatten(1)[:, :d_ff].bool()


def _problem(bits: Tensor, scales: Tensor | None) -> str | None:
    if bits.dtype != torch.bool or bits.dim() != 2 or 0 in bits.shape:
        return f"bits of type {bits.dtype} and shape {list(bits.shape)} are not a bool matrix"
    counts = bits.sum(dim=1)
    if int(counts.min()) != int(counts.max()):
        return f"layers keep between {int(counts.min())} and {int(counts.max())} channels"
    if int(counts[0]) == 0:
        return "it keeps no channels"
    if scales is not None:
        if scales.shape != bits.shape or not scales.is_floating_point():
            return f"scales of shape {list(scales.shape)} don't match the mask"
        if not bool(torch.isfinite(scales).all()):
            return "a scale is not finite"
    return None


def _corrupt(path: Path, problem: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"mask file {path}: {problem}", hint=_HINT, subject=str(path))
