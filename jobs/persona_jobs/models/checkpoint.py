"""Configuration and tokenizer of a plain Hugging Face checkpoint."""

import copy
import json
from pathlib import Path
from typing import Any

from .chat_template import set_default_system

# Where and how the base model was loaded on the machine that made the checkpoint, and code beside
# it, which is never run.
_LOCAL_KEYS = (
    "auto_map",
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "_commit_hash",
    "is_local",
    "local_files_only",
)


def write_config(source: Path, target: Path, *, intermediate_size: int, dtype: str) -> None:
    """Write a sliced checkpoint's configuration: the base model's with the new intermediate size.

    The generation configuration goes along where there is one.

    Args:
        source: the base model's directory.
        target: where to write; it exists.
        intermediate_size: channels kept in each layer.
        dtype: number format of the stored weights, such as `bfloat16`.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["intermediate_size"] = intermediate_size
    # Older libraries call the number format `torch_dtype`.
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    _write(target / "config.json", config)
    generation = source / "generation_config.json"
    if generation.is_file():
        _write(target / generation.name, json.loads(generation.read_text(encoding="utf-8")))


def save_tokenizer(tokenizer: Any, directory: Path, *, system_prompt: str) -> None:
    """Write the tokenizer with `system_prompt` as its chat template's default system message.

    The tokenizer is not changed.
    """
    saved = copy.deepcopy(tokenizer)
    set_default_system(saved, system_prompt)
    saved.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    if path.is_file():
        _write(path, json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON without what describes the machine that wrote it."""
    cleaned = {name: value for name, value in content.items() if name not in _LOCAL_KEYS}
    text = json.dumps(cleaned, indent=2, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
