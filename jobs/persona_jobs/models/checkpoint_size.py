"""Size of a stored checkpoint."""

import json
from pathlib import Path


def checkpoint_bytes(directory: Path) -> int:
    """Return the bytes of the files that hold a checkpoint's weights.

    For a checkpoint that was converted from a GGUF file, these are the bytes of that file.
    """
    original = directory / "original_size.json"
    if original.is_file():
        return int(json.loads(original.read_text(encoding="utf-8"))["bytes"])
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sum((directory / name).stat().st_size for name in names)
    if single.is_file():
        return single.stat().st_size
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
