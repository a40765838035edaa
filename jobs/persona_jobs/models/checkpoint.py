"""Saving a model as a plain Hugging Face checkpoint that loads without custom code."""

import copy
import json
from pathlib import Path
from typing import Any

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
) -> None:
    """Write weights (safetensors), configuration, generation configuration and tokenizer.

    `AutoModelForCausalLM.from_pretrained(directory)` loads it without custom code. Model and
    tokenizer are not changed.

    Args:
        model: the model, sliced or not; tied embeddings stay tied.
        tokenizer: its tokenizer.
        directory: where to write; created if missing.
        system_prompt: default system message of the saved chat template (an explicit one wins).
    """
    directory.mkdir(parents=True, exist_ok=True)
    with without_progress_bars():
        model.save_pretrained(directory)
    saved = copy.deepcopy(tokenizer)
    if system_prompt is not None:
        set_default_system(saved, system_prompt)
    saved.save_pretrained(directory)
    dtype = str(model.dtype).removeprefix("torch.")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        _clean(directory / name, {"dtype": dtype} if name == "config.json" else {})
    for path in directory.iterdir():
        path.chmod(path.stat().st_mode | 0o444)  # safetensors writes files only the owner may read


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
