"""The reference stage's mean unit vectors as a memory-mapped safetensors file.

Memory does not grow with the number of queries: rows are written as they are computed. A vector is
stored as 16-bit integers with a scale of its own, its largest absolute value / 32,767: half the
size of float32. Hidden states have a few channels that are hundreds of times larger than all
others; the largest is exact this way. The error in the sensitivity s(q) of SmolLM2 is 2e-6,
and no query changes its place; with float16 it is 5e-5, and one query in eight does.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CorruptArtifactError

VECTORS = "mean_unit"
SCALES = "scale"
PART_FILE = "part.safetensors"
_LARGEST = 32_767


class MeanUnitVectors:
    """Stored mean unit vectors, of which only the rows that are asked for are in memory.

    Args:
        path: the file.
        shape: queries, blocks, hidden size.

    Raises:
        CorruptArtifactError: it holds vectors of another shape.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        tensors = load_file(path)
        self._vectors: Tensor = tensors[VECTORS]
        self._scales: Tensor | None = tensors.get(SCALES)
        if tuple(self._vectors.shape) != shape:
            raise CorruptArtifactError(
                f"The reference hidden states of shape {list(self._vectors.shape)} don't fit the "
                f"model and its queries, {list(shape)}",
                hint="Delete the reference stage's folder in the store and run again",
                subject=str(path),
            )

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Return the vectors of these queries, `[len(indices), B, d]` float32."""
        chosen = self._vectors[list(indices)].float()
        if self._scales is None:  # a result from before vectors were stored as integers
            return chosen
        return chosen * self._scales[list(indices)].unsqueeze(-1)


class MeanUnitFile:
    """A file whose rows are filled in any order.

    Args:
        path: the file to create.
        shape: queries, blocks, hidden size.

    Attributes:
        done: rows that are filled.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        queries, blocks, hidden_size = shape
        first, second = 4 * queries * blocks, 2 * queries * blocks * hidden_size
        header = json.dumps(
            {
                SCALES: _entry("F32", [queries, blocks], 0, first),
                VECTORS: _entry("I16", list(shape), first, first + second),
            },
            separators=(",", ":"),
        ).encode()
        header += b" " * (-len(header) % 8)
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        start = path.stat().st_size
        self._scales = np.memmap(path, "<f4", mode="r+", offset=start, shape=shape[:2])
        self._vectors = np.memmap(path, "<i2", mode="r+", offset=start + first, shape=shape)
        self.done: set[int] = set()
        self._unsaved: list[int] = []

    def put(self, rows: Sequence[int], values: Tensor) -> None:
        """Fill rows with the vectors `[len(rows), B, d]`."""
        scales = values.abs().amax(dim=-1) / _LARGEST
        integers = (values / scales.clamp(min=1e-30).unsqueeze(-1)).round().to(torch.int16)
        self._scales[list(rows)], self._vectors[list(rows)] = scales.numpy(), integers.numpy()
        self.done.update(rows)
        self._unsaved += rows

    def write_unsaved(self, directory: Path) -> None:
        """Write the rows that were filled since the last call into `directory`."""
        rows, self._unsaved = self._unsaved, []
        part = {
            "rows": torch.tensor(rows),
            SCALES: torch.from_numpy(self._scales[rows]),
            VECTORS: torch.from_numpy(self._vectors[rows]),
        }
        save_file(part, directory / PART_FILE)

    def read_part(self, directory: Path) -> None:
        """Fill the rows that `write_unsaved` wrote into `directory`.

        Raises:
            ValueError: they don't fit this file.
        """
        part = load_file(directory / PART_FILE)
        rows, scales, vectors = part["rows"].tolist(), part[SCALES], part[VECTORS]
        shape = (len(rows), *self._vectors.shape[1:])
        fitting = tuple(vectors.shape) == shape and tuple(scales.shape) == shape[:2]
        if not fitting or (rows and not 0 <= min(rows) <= max(rows) < len(self._vectors)):
            raise ValueError(f"{directory / PART_FILE} does not fit these queries")
        self._scales[rows], self._vectors[rows] = scales.numpy(), vectors.numpy()
        self.done.update(rows)

    def flush(self) -> None:
        """Write everything to the disk."""
        self._vectors.flush()
        self._scales.flush()


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
