"""Conversion of GGUF files to plain float32 safetensors checkpoints, once per file."""

import gc
import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path

from ..errors import CorruptArtifactError, InputError, OutOfMemoryError, is_out_of_memory
from ..store.files import locked_file, sha256_file, store_error
from .checkpoint import check_checkpoint

CONVERTER_VERSION = 1
"""Part of the cache key, to be raised when the conversion's result changes."""

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


def _check_tensors(path: Path, size: int) -> None:
    """Check that every tensor of the table lies within the file; takes seconds."""
    from gguf import GGUFReader

    try:
        tensors = [
            (str(tensor.name), int(tensor.data_offset) + int(tensor.n_bytes))
            for tensor in GGUFReader(path).tensors
        ]
    except Exception as error:  # a malformed file can raise anything in the reader and in numpy
        raise _corrupt(path, f"its tensor table can't be read ({type(error).__name__})") from None
    for name, end in tensors:
        if end > size:
            raise _corrupt(path, f"tensor {name} ends at byte {end:,} of {size:,}")


def convert(path: Path, cache_dir: Path) -> Path:
    """Return a plain float32 safetensors checkpoint made from a GGUF file.

    The conversion runs once per file content, and other processes that need the same file wait
    for it. It takes a little more than four bytes of memory per parameter.

    Args:
        path: the GGUF file.
        cache_dir: where the result is kept.

    Raises:
        InputError: the file is no GGUF file, or transformers can't read its architecture.
        CorruptArtifactError: the file is truncated or malformed.
        OutOfMemoryError: the memory does not hold the model in float32.
        StoreError: the cache can't be written.
    """
    size = _check_header(path)
    try:
        content = sha256_file(path)
        folder = cache_dir / "converted"
        target = folder / f"{path.stem[:80]}-{content[:16]}-v{CONVERTER_VERSION}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked_file(folder / f"{target.name}.lock"):
            if target.is_dir() and _usable(target):
                return target
            _check_tensors(path, size)
            _remove_leftovers(folder, target.name)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=folder) as temporary:
                result = Path(temporary, "result")
                _convert(path, result, Path(temporary))
                check_checkpoint(result)
                if target.is_dir():
                    shutil.rmtree(target)
                result.replace(target)
    except OSError as error:
        raise store_error(error, action="convert", subject=f"{path} in {cache_dir}") from error
    return target


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


def _convert(path: Path, result: Path, workspace: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logger.info("Converting %s to safetensors; this happens once per file", path.name)
    # The folder holds only the model, so that files beside the original can't change the result.
    source = workspace / "source"
    source.mkdir()
    (source / "model.gguf").symlink_to(path.resolve())
    options = {"gguf_file": "model.gguf", "local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # an unsupported model can raise anything in the library
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"The memory does not hold {path} in float32 ({reason[:200]})",
                hint="Use a machine with more memory",
            ) from None
        raise InputError(
            f"{path} can't be converted: {reason[:300]}",
            hint="Use a GGUF of an architecture that transformers can read (Llama, Qwen2, Qwen3)",
            subject=str(path),
        ) from None
    model.config.name_or_path = ""
    model.save_pretrained(result, safe_serialization=True)
    tokenizer.save_pretrained(result)
    for file in result.iterdir():
        file.chmod(
            0o644
        )  # weights are written private to the user, but a shared cache is read by others
    del model
    gc.collect()


def _corrupt(path: Path, reason: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path} is truncated or malformed: {reason}",
        hint="Fetch the file again",
        subject=str(path),
    )
