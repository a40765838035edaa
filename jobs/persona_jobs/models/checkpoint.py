"""Saving a model as a plain Hugging Face checkpoint that needs no code of ours."""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from .chat_template import set_default_system
from .loading import without_progress_bars

# Where and how the base model was loaded on the machine that made the checkpoint.
_LOCAL_KEYS = (
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "_commit_hash",
    "is_local",
    "local_files_only",
)


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    directory: Path,
    *,
    system_prompt: str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights (safetensors), configuration, generation configuration and tokenizer.

    `AutoModelForCausalLM.from_pretrained(directory)` loads it with no other code. Model and
    tokenizer are left as they are.

    Args:
        model: the model, sliced or not; tied embeddings stay tied.
        tokenizer: its tokenizer.
        directory: where to write; made if missing.
        system_prompt: default system message of the saved chat template (an explicit one wins).
        dtype: number format of the saved weights; None keeps the model's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = None
    if dtype is not None and dtype != model.dtype:
        weights = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in model.state_dict().items()
            if name not in _tied_names(model)
        }
    with without_progress_bars():
        model.save_pretrained(directory, state_dict=weights)
    saved = copy.deepcopy(tokenizer)
    if system_prompt is not None:
        set_default_system(saved, system_prompt)
    saved.save_pretrained(directory)
    stated = str(dtype or model.dtype).removeprefix("torch.")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        _clean(directory / name, {"dtype": stated} if name == "config.json" else {})
    for path in directory.iterdir():
        path.chmod(path.stat().st_mode | 0o444)  # safetensors writes files only the owner may read


def _tied_names(model: Any) -> set[str]:
    """Names in the state dict of weights that are another one's alias."""
    seen: dict[int, str] = {}
    tied: set[str] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            tied.add(name)
        seen.setdefault(id(parameter), name)
    return tied


def _clean(path: Path, values: dict[str, str]) -> None:
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in _LOCAL_KEYS:
        content.pop(key, None)
    content.update(values)
    path.write_text(
        json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )
