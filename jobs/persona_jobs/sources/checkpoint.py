"""Checks of a Hugging Face checkpoint directory, before anything is loaded from it."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import CorruptArtifactError, InputError
from ..models.architectures import needs_custom_code, refusal

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def check_checkpoint(directory: Path) -> None:
    """Check that `directory` is a plain safetensors checkpoint with a tokenizer.

    Only the headers of weight files are read.

    Raises:
        InputError: the config, safetensors weights or tokenizer are missing, or the model can't
            be used: see `check_config`.
        CorruptArtifactError: a file is malformed, truncated or missing.
    """
    check_config(directory)
    tokenizer_config = directory / "tokenizer_config.json"
    if tokenizer_config.is_file() and _read_object(tokenizer_config).get("auto_map"):
        raise _custom_code(tokenizer_config)
    for shard in _shards(directory):
        check_safetensors(shard)
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise InputError(
            f"{directory} has no tokenizer ({' or '.join(_TOKENIZERS[:2])})",
            hint="Copy the tokenizer's files into the directory",
            subject=str(directory),
        )


def check_config(directory: Path) -> None:
    """Check that `config.json` describes a plain model that can be pruned.

    Raises:
        InputError: there is no config, the model needs custom code, is quantized, or is of an
            unsupported family.
        CorruptArtifactError: the config is malformed.
    """
    path = directory / "config.json"
    config = _read_object(path, missing_hint=_config_hint(directory))
    if needs_custom_code(config):
        raise _custom_code(path)
    for field in ("quantization_config", "quantization"):
        if settings := config.get(field):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise InputError(
                f"{path} describes a quantized model ({method or field})",
                hint="Use the model's unquantized checkpoint, or a GGUF file",
                subject=str(path),
            )
    if (refused := refusal(config)) is not None:
        raise InputError(
            f"{path} describes {refused.what}, which can't be pruned",
            hint=refused.hint,
            subject=str(path),
        )


def check_safetensors(path: Path) -> None:
    """Check that a safetensors file's header is valid and describes all bytes that follow it.

    Raises:
        CorruptArtifactError: the file is missing, malformed or truncated.
    """
    if not path.is_file():
        raise CorruptArtifactError(
            f"{path} is missing", hint="Fetch the model again", subject=str(path)
        )
    try:
        with safe_open(str(path), framework="np") as handle:
            empty = not handle.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"{path} is truncated or not a safetensors file ({error})",
            hint="Fetch the model again",
            subject=str(path),
        ) from None
    if empty:
        raise CorruptArtifactError(
            f"{path} contains no weights", hint="Fetch the model again", subject=str(path)
        )


def _shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if index.is_file():
        names = _read_object(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise _corrupt(index, "it has no weight_map")
        shards = sorted({str(name) for name in names.values()})
        if any("/" in name or "\\" in name or name.startswith(".") for name in shards):
            raise _corrupt(index, "it has a shard whose name is not a plain file name")
        absent = [name for name in shards if not (directory / name).is_file()]
        if absent:
            raise CorruptArtifactError(
                f"{index} names shards that do not exist: {', '.join(absent[:5])}",
                hint="Fetch the model again",
                subject=str(index),
            )
        return [directory / name for name in shards]
    pickled = sorted(file.name for pattern in _PICKLED for file in directory.glob(pattern))
    if pickled:
        raise InputError(
            f"{directory} has only pickled weights ({pickled[0]})",
            hint="Convert them to safetensors: a pickle file can run any code when it is loaded",
            subject=str(directory),
        )
    raise InputError(
        f"{directory} has no {WEIGHTS} or {INDEX}",
        hint="Use the directory of a Hugging Face checkpoint",
        subject=str(directory),
    )


def _config_hint(directory: Path) -> str:
    ggufs = sorted(directory.glob("*.gguf"))
    if ggufs:
        return f"Use the file in it: {ggufs[0]}"
    return "Use the directory of a Hugging Face checkpoint"


def _custom_code(path: Path) -> InputError:
    return InputError(
        f"{path} requires custom code (auto_map), which is never run",
        hint="Use a model that transformers supports without custom code",
        subject=str(path),
    )


def _read_object(path: Path, *, missing_hint: str = "Fetch the model again") -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}", hint=missing_hint, subject=str(path.parent)
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(path, f"it is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise _corrupt(path, "it is not a JSON object")
    return value


def _corrupt(path: Path, reason: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path} is malformed: {reason}", hint="Fetch the model again", subject=str(path)
    )
