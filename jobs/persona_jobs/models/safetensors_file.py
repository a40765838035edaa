"""Tables of contents of safetensors files, read and written without touching the weights.

The library maps a file into memory or holds all its tensors; with offsets at hand, a file of any
size is read and written a piece at a time. Format:
https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import CorruptArtifactError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes of one number, by the format's name for its type."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        name: its name in the file.
        dtype: the format's name of the number type, such as `BF16`.
        shape: its shape.
        path: the file.
        start: position of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def weight_files(directory: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights, by its index where it has one.

    Raises:
        CorruptArtifactError: the index is malformed.
    """
    index = directory / INDEX
    if (directory / WEIGHTS).is_file() or not index.is_file():
        return [directory / WEIGHTS]
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [directory / name for name in sorted(set(names))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(
            f"{index} is malformed: {error}", hint="Fetch the model again", subject=str(index)
        ) from None


def read_contents(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """Return the tensors of a safetensors file in the order of their bytes, and its metadata.

    Raises:
        CorruptArtifactError: the file is missing, truncated or malformed.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
            end = os.fstat(file.fileno()).st_size
        metadata = header.pop("__metadata__", {})
        tensors = [
            StoredTensor(
                name=name,
                dtype=entry["dtype"],
                shape=tuple(int(size) for size in entry["shape"]),
                path=path,
                start=_LENGTH_BYTES + length + int(entry["data_offsets"][0]),
            )
            for name, entry in header.items()
        ]
        outside = [t.name for t in tensors if not 0 <= t.start <= end - t.size]
    except FileNotFoundError:
        raise _corrupt(path, "it does not exist") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"its header can't be read ({type(error).__name__})") from None
    if outside:
        raise _corrupt(path, f"it does not hold all of {outside[0]}")
    return sorted(tensors, key=lambda tensor: tensor.start), metadata


def write_header(
    file: BinaryIO,
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    metadata: dict[str, str],
) -> None:
    """Write the header of a safetensors file whose tensors' bytes follow in this order.

    Args:
        file: a file at its beginning.
        tensors: name, number type and shape of each.
        metadata: text that the file carries.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, dtype, shape in tensors:
        size = math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the weights start at a multiple of 8 bytes
    file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)


def _corrupt(path: Path, reason: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path} is truncated or not a safetensors file: {reason}",
        hint="Fetch the model again",
        subject=str(path),
    )
