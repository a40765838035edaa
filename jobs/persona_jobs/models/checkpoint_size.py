"""Size of a stored checkpoint."""

import json
from pathlib import Path

from .safetensors_file import weight_files


def checkpoint_bytes(directory: Path) -> int:
    """Return the bytes of the files that hold a checkpoint's weights.

    For a checkpoint that was converted from a GGUF file, these are the bytes of that file.
    """
    original = directory / "original_size.json"
    if original.is_file():
        return int(json.loads(original.read_text(encoding="utf-8"))["bytes"])
    return sum(path.stat().st_size for path in weight_files(directory))
