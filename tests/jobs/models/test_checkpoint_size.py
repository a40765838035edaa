import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from persona_jobs.models.checkpoint_size import checkpoint_bytes


def test_checkpoint_bytes_counts_the_weights_that_are_used(tmp_path: Path):
    parts = ["model-1.safetensors", "model-2.safetensors"]
    for part in parts:
        save_file({part: torch.zeros(10)}, tmp_path / part)
    save_file({"a": torch.zeros(999)}, tmp_path / "consolidated.safetensors")
    index = {"weight_map": {"x": parts[0], "y": parts[1], "z": parts[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint_bytes(tmp_path) == sum((tmp_path / p).stat().st_size for p in parts)
    # As in transformers, one file with all weights comes before an index.
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    assert checkpoint_bytes(tmp_path) == (tmp_path / "model.safetensors").stat().st_size
