"""Slicing of a stored checkpoint, file by file and a piece of a tensor at a time.

No model is loaded: the weights that stay are copied as they are stored, and of the pruned ones the
kept rows or columns. The result equals `slicing.slice_model` on the loaded model. Memory is a few
times `PIECE_BYTES`, whatever the model's size; every byte is read and written once.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from ..errors import CorruptArtifactError
from .families import ffn_layers
from .safetensors_file import (
    INDEX,
    ITEM_BYTES,
    WEIGHTS,
    StoredTensor,
    read_contents,
    weight_files,
    write_header,
)

PIECE_BYTES = 8 << 20
"""Bytes that are read at once; at least one row."""

_RECOVER_AGAIN = "Delete the recover stage's folder in the store and run again"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Kept:
    """What is kept of a pruned weight or bias.

    Attributes:
        channels: int64 indices `[width]` of the kept rows or columns, in order; `gate` and `up`
            in one tensor have two rows for each channel.
        size: rows or columns before.
        dim: 0 where the channels are rows, 1 where they are columns.
        scales: factors `[width]` of the kept columns, or None.
    """

    channels: Tensor
    size: int
    dim: int
    scales: Tensor | None = None

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is kept of a tensor of shape `before`."""
        return (*before[: self.dim], len(self.channels), *before[self.dim + 1 :])


def kept_tensors(model: nn.Module, mask: Tensor, scales: Tensor | None) -> dict[str, Kept]:
    """Return what is kept of each pruned tensor, by the tensor's name in the model.

    Args:
        model: the dense model; its weights are not read, so it may be an empty one.
        mask: `[n_layers, d_ff]`, as in `slicing.slice_model`.
        scales: `[n_layers, d_ff]` factors of the channels' activations, or None.
    """
    names = {module: name for name, module in model.named_modules()}
    found = {}
    for layer, row in zip(ffn_layers(model), mask.bool(), strict=True):
        channels = row.nonzero().squeeze(1)
        for projection in layer.expanding:
            kept_rows = Kept(layer.rows_of(projection, channels), projection.out_features, 0)
            for kind, _ in projection.named_parameters():
                found[f"{names[projection]}.{kind}"] = kept_rows
        factors = None if scales is None else scales[layer.index][channels]
        found[f"{names[layer.down]}.weight"] = Kept(channels, len(row), 1, factors)
    return found


def recovered_tensors(model: nn.Module, path: Path) -> dict[str, StoredTensor]:
    """Return the recover stage's weights by the names of the tensors that they replace.

    Args:
        model: the dense model, which may be an empty one.
        path: the file, with names as in the model, such as `model.layers.0.mlp.down_proj.weight`.

    Raises:
        CorruptArtifactError: the file is damaged, or holds what the model doesn't have.
    """
    tensors = {tensor.name: tensor for tensor in read_contents(path)[0]}
    unknown = tensors.keys() - model.state_dict().keys()
    if unknown:
        raise CorruptArtifactError(
            f"{path} holds the tensor {min(unknown)}, which the model doesn't have",
            hint=_RECOVER_AGAIN,
            subject=str(path),
        )
    return tensors


def slice_weights(
    source: Path,
    target: Path,
    kept: Mapping[str, Kept],
    replaced: Mapping[str, StoredTensor],
    *,
    on_tensor: Callable[[], None],
) -> None:
    """Write the sliced weights of a checkpoint: the same files with the same tensors.

    Args:
        source: the dense checkpoint.
        target: where to write; it exists.
        kept: what is kept of the pruned tensors, by name; the checkpoint must have all of them.
        replaced: tensors of another file to write instead of the checkpoint's, by name.
        on_tensor: called after each tensor; what it raises ends the work.

    Raises:
        CorruptArtifactError: a file is damaged, or a tensor is missing or has another shape.
    """
    missing = {*kept, *replaced}
    total = 0
    for path in weight_files(source):
        contents, metadata = read_contents(path)
        names = [_model_name(tensor.name, kept) for tensor in contents]
        missing.difference_update(names)
        parts = [
            _Part.of(tensor, kept.get(name), replaced.get(name))
            for tensor, name in zip(contents, names, strict=True)
        ]
        with (target / path.name).open("wb") as file:
            write_header(file, [(p.stored.name, p.source.dtype, p.shape) for p in parts], metadata)
            start = file.tell()
            for part in parts:
                part.write(file)
                on_tensor()
            total += file.tell() - start
    if missing:
        raise CorruptArtifactError(
            f"The weights in {source} have no {min(missing)} ({len(missing)} tensors are missing)",
            hint="Download or convert the base model again",
            subject="spec.baseModel",
        )
    _copy_index(source, target, total)


@dataclass(frozen=True)
class _Part:
    """A tensor of the sliced checkpoint: its name's place, its bytes' source, and what is kept."""

    stored: StoredTensor
    source: StoredTensor
    kept: Kept | None

    @classmethod
    def of(cls, stored: StoredTensor, kept: Kept | None, replaced: StoredTensor | None) -> "_Part":
        if kept is not None and (
            len(stored.shape) <= kept.dim or stored.shape[kept.dim] != kept.size
        ):
            raise _misfit(stored, "Download or convert the base model again")
        if replaced is None:
            return cls(stored, stored, kept)
        expected = stored.shape if kept is None else kept.shape(stored.shape)
        if replaced.shape != expected:
            raise _misfit(replaced, _RECOVER_AGAIN)
        return cls(stored, replaced, None)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape if self.kept is None else self.kept.shape(self.source.shape)

    def write(self, file: BinaryIO) -> None:
        """Write the tensor's bytes."""
        source, kept = self.source, self.kept
        if kept is None:
            for piece in _pieces(source, 1):
                file.write(piece)
            return
        row_bytes = source.size // source.shape[0]
        first = 0
        for piece in _pieces(source, row_bytes):
            count = len(piece) // row_bytes
            file.write(_selected(piece, source.dtype, count, first, kept))
            first += count


def _pieces(tensor: StoredTensor, row_bytes: int) -> Iterator[bytearray]:
    """Yield the tensor's bytes, a whole number of rows at a time."""
    step = max(1, PIECE_BYTES // row_bytes) * row_bytes
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        for start in range(0, tensor.size, step):
            piece = bytearray(min(step, tensor.size - start))
            if not _fill(file, piece):
                raise CorruptArtifactError(
                    f"{tensor.path} ends within the tensor {tensor.name}",
                    hint="Fetch the model again",
                    subject=str(tensor.path),
                )
            yield piece


def _fill(file: io.RawIOBase, piece: bytearray) -> bool:
    """Read until `piece` is full; False where the file ends before."""
    view = memoryview(piece)
    while view:
        count = file.readinto(view)
        if not count:
            return False
        view = view[count:]
    return True


def _selected(piece: bytearray, dtype: str, rows: int, first: int, kept: Kept) -> bytes:
    """Return the bytes that are kept of the rows `first` to `first + rows`."""
    if kept.dim == 0:
        chosen = kept.channels[(kept.channels >= first) & (kept.channels < first + rows)] - first
        return _bytes(torch.frombuffer(piece, dtype=torch.uint8).view(rows, -1)[chosen])
    kind = _BITS[ITEM_BYTES[dtype]] if kept.scales is None else _FLOATS[dtype]
    columns = torch.frombuffer(piece, dtype=kind).view(rows, -1)[:, kept.channels]
    if kept.scales is not None:
        columns = (columns.float() * kept.scales.float()).to(kind)
    return _bytes(columns)


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def _model_name(name: str, kept: Mapping[str, Kept]) -> str:
    """Return a stored tensor's name in the model; some files leave out the decoder's prefix."""
    return name if name in kept or f"model.{name}" not in kept else f"model.{name}"


def _copy_index(source: Path, target: Path, total: int) -> None:
    """Write the index of a checkpoint in several files, with the new total size."""
    if weight_files(source) == [source / WEIGHTS]:
        return
    index = json.loads((source / INDEX).read_text(encoding="utf-8"))
    index["metadata"] = {"total_size": total}
    (target / INDEX).write_text(
        json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def _misfit(tensor: StoredTensor, hint: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"The tensor {tensor.name} in {tensor.path} doesn't fit the model",
        hint=hint,
        subject=str(tensor.path),
    )
