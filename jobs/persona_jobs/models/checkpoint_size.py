"""Size of a stored checkpoint."""

import json
from pathlib import Path


def checkpoint_bytes(directory: Path) -> int:
    """Return the bytes of the safetensors files that hold a checkpoint's weights."""
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sum((directory / name).stat().st_size for name in names)
    if single.is_file():
        return single.stat().st_size
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
