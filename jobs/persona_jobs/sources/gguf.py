"""Conversion of GGUF files to plain bfloat16 safetensors checkpoints, once per file."""

import gc
import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ..errors import CorruptArtifactError, InputError, OutOfMemoryError, is_out_of_memory
from ..export.model_card import CARD
from ..models.chat import end_of_turn
from ..store.files import locked_file, sha256_file, store_error
from . import gguf_contents
from .checkpoint import check_checkpoint

CONVERTER_VERSION = 3
"""Part of the cache key, to be raised when the conversion's result changes."""

ORIGINAL_SIZE = "original_size.json"
"""File in a converted checkpoint with the size of the GGUF file: `{"bytes": 92000000}`."""

_HEADER = struct.Struct("<4sIQQ")  # magic, version, number of tensors, number of metadata entries
_MAX_ENTRIES = 1_000_000

logger = logging.getLogger(__name__)


def _check_header(path: Path) -> int:
    """Check the header and return the file's size in bytes.

    Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEADER.size)
            size = os.fstat(handle.fileno()).st_size
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(
            f"{path} does not exist", hint="Correct the path", subject=str(path)
        ) from None
    except OSError as error:
        raise store_error(error, action="read", subject=str(path)) from error
    if head[:4] != b"GGUF":
        raise InputError(
            f"{path} is not a GGUF file", hint="Use a .gguf model file", subject=str(path)
        )
    if len(head) < _HEADER.size:
        raise _corrupt(path, f"it ends after {size} bytes")
    _, version, tensors, entries = _HEADER.unpack(head)
    if version not in {2, 3}:
        raise InputError(
            f"{path} has GGUF version {version}",
            hint="Convert it to version 3 (little-endian)",
            subject=str(path),
        )
    if tensors == 0 or max(tensors, entries) > min(_MAX_ENTRIES, size):
        raise _corrupt(path, f"it claims {tensors:,} tensors and {entries:,} metadata entries")
    return size


def _read(path: Path) -> Any:
    """Return a reader of the file, after a check that every tensor lies within it."""
    from gguf import GGUFReader

    size = _check_header(path)
    try:
        reader = GGUFReader(path)
        tensors = [
            (str(tensor.name), int(tensor.data_offset) + int(tensor.n_bytes))
            for tensor in reader.tensors
        ]
        gguf_contents.metadata([reader])
    except Exception as error:  # a malformed file can raise anything in the reader and in numpy
        raise _corrupt(path, f"its tensor table can't be read ({type(error).__name__})") from None
    for name, end in tensors:
        if end > size:
            raise _corrupt(path, f"tensor {name} ends at byte {end:,} of {size:,}")
    return reader


def convert(path: Path, cache_dir: Path) -> Path:
    """Return a plain bfloat16 safetensors checkpoint made from a GGUF file.

    The conversion runs once per file content, and other processes that need the same file wait
    for it. It takes a little more than two bytes of memory per parameter. The shards of a split
    file are found by their names beside `path`. Nothing that the file holds is lost silently:
    tensors and metadata are carried over or refused.

    Args:
        path: the GGUF file, or any of its shards.
        cache_dir: where the result is kept.

    Raises:
        InputError: the file is no GGUF file, shards are missing, or something in it can't be
            carried over.
        CorruptArtifactError: the file is truncated or malformed.
        OutOfMemoryError: the memory does not hold the model in bfloat16.
        StoreError: the cache can't be written.
    """
    parts = gguf_contents.shards(path)
    sizes = [_check_header(part) for part in parts]
    try:
        digests = [sha256_file(part) for part in parts]
        content = digests[0]
        if len(parts) > 1:
            content = hashlib.sha256("".join(digests).encode()).hexdigest()
        folder = cache_dir / "converted"
        target = folder / f"{path.stem[:80]}-{content[:16]}-v{CONVERTER_VERSION}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked_file(folder / f"{target.name}.lock"):
            if target.is_dir() and _usable(target):
                return target
            readers = [_read(part) for part in parts]
            _remove_leftovers(folder, target.name)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=folder) as temporary:
                result = Path(temporary, "result")
                _convert(path, readers, result, Path(temporary))
                original = json.dumps({"bytes": sum(sizes)})
                (result / ORIGINAL_SIZE).write_text(original + "\n")
                check_checkpoint(result)
                if target.is_dir():
                    shutil.rmtree(target)
                result.replace(target)
    except OSError as error:
        raise store_error(error, action="convert", subject=f"{path} in {cache_dir}") from error
    return target


def check_metadata(path: Path) -> None:
    """Check from its headers that a GGUF file can be converted; no tensor is read.

    Raises:
        InputError: it is no GGUF file, shards are missing, or its metadata can't be carried over.
        CorruptArtifactError: the file is truncated or malformed.
        StoreError: the file can't be read.
    """
    readers = [_read(part) for part in gguf_contents.shards(path)]
    gguf_contents.check_shards(path, readers)
    gguf_contents.check_metadata(path, gguf_contents.metadata(readers))


def _usable(target: Path) -> bool:
    try:
        check_checkpoint(target)
    except InputError as error:
        logger.warning("The earlier conversion is damaged and runs again: %s", error)
        return False
    return True


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove the files of killed conversions; the lock ensures that none is running."""
    for leftover in folder.glob(f".{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _convert(path: Path, readers: list[Any], result: Path, workspace: Path) -> None:
    gguf_contents.check_shards(path, readers)
    values = gguf_contents.metadata(readers)
    gguf_contents.check_metadata(path, values)
    logger.info("Converting %s to safetensors; this happens once per file", path.name)
    # The folder holds only the model, so that files beside the original can't change the result.
    source = workspace / "source"
    source.mkdir()
    if len(readers) == 1:
        (source / "model.gguf").symlink_to(path.resolve())
    else:
        gguf_contents.merge(readers, source / "model.gguf")
    model, tokenizer = _load(path, source)
    tensors = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    gguf_contents.check_result(path, values, set(tensors), model)
    rope = tensors.get(gguf_contents.ROPE_TENSOR)
    scaling = gguf_contents.rope_scaling(
        path, values, model.config, None if rope is None else rope.data.flatten()
    )
    gguf_contents.global_rope(model.config).update(scaling)
    _add_end_of_turn(model, tokenizer)
    model.config.name_or_path = ""
    model.save_pretrained(result, safe_serialization=True)
    tokenizer.save_pretrained(result)
    _write_licence(result, values)
    for file in result.iterdir():
        file.chmod(0o644)  # a shared cache is read by others, but weights are written private
    del model
    gc.collect()


def _write_licence(result: Path, values: dict[str, Any]) -> None:
    """Write the licence that the file names into a model card, as checkpoints on the hub do."""
    licence = values.get("general.license")
    if isinstance(licence, str) and licence.strip():
        header = yaml.safe_dump({"license": licence.strip()}, allow_unicode=True)
        (result / CARD).write_text(f"---\n{header}---\n", encoding="utf-8")


def _add_end_of_turn(model: Any, tokenizer: Any) -> None:
    """Make the token that ends an answer end the generation: a GGUF file names only one end."""
    if not tokenizer.chat_template:
        return
    ends = model.generation_config.eos_token_id
    known = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
    end = end_of_turn(tokenizer)
    if end is not None and end not in known:
        model.generation_config.eos_token_id = [*known, end]


def _load(path: Path, source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": "model.gguf", "local_files_only": True, "trust_remote_code": False}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # an unsupported model can raise anything in the library
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"The memory does not hold {path} in bfloat16 ({reason[:200]})",
                hint="Use a machine with more memory",
            ) from None
        raise InputError(
            f"{path} can't be converted: {reason[:300]}",
            hint=gguf_contents.USE_ANOTHER,
            subject=str(path),
        ) from None
    lost = [str(name) for key in ("missing_keys", "mismatched_keys") for name in info.get(key, ())]
    if lost:
        raise _corrupt(path, f"the weights {', '.join(sorted(lost)[:3])} are missing or misshapen")
    return model, tokenizer


def _corrupt(path: Path, reason: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path} is truncated or malformed: {reason}",
        hint="Fetch the file again",
        subject=str(path),
    )
