"""Writing of a checkpoint as one GGUF file, for llama.cpp and the programs that are built on it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from ..errors import InputError
from ..models.loading import load_config, load_tokenizer
from .gguf_metadata import add_model_metadata, rope_frequency_divisors
from .gguf_tensors import GgufTensor, Quantization, architecture_of, gguf_tensors
from .gguf_tokenizer import add_tokenizer_metadata

ROPE_TENSOR = "rope_freqs.weight"
_FILE_TYPES = {
    "F16": LlamaFileType.MOSTLY_F16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}


def write_gguf(
    directory: Path,
    path: Path,
    quantization: Quantization,
    *,
    texts: Mapping[str, str],
    on_tensor: Callable[[], None] = lambda: None,
) -> None:
    """Write a checkpoint as a GGUF file; memory doesn't grow with the model.

    Args:
        directory: a Hugging Face checkpoint.
        path: the file to write.
        quantization: number format of the matrices.
        texts: further metadata, such as `general.name`.
        on_tensor: called after each tensor; what it raises ends the work.

    Raises:
        InputError: llama.cpp can't compute this model, or lacks its tokenizer.
        CorruptArtifactError: a file of the checkpoint is damaged.
    """
    config = load_config(directory)
    tensors = gguf_tensors(directory, config, quantization)
    writer = GGUFWriter(path, architecture_of(config))
    writer.add_type("model")
    writer.add_file_type(_FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, text in texts.items():
        writer.add_string(name, text)
    add_model_metadata(writer, config)
    add_tokenizer_metadata(writer, load_tokenizer(directory), _rows(tensors))
    divisors = rope_frequency_divisors(config)
    if divisors is not None:
        _announce(writer, ROPE_TENSOR, divisors.shape, divisors.nbytes, GGMLQuantizationType.F32)
    for tensor in tensors:
        _announce(writer, tensor.name, tensor.shape, tensor.size, tensor.kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = _file(writer)
        writer.write_padding(file, file.tell())
        if divisors is not None:
            divisors.tofile(file)
            writer.write_padding(file, divisors.nbytes)
        for tensor in tensors:
            for piece in tensor.pieces():
                np.ascontiguousarray(piece).tofile(file)
            writer.write_padding(file, tensor.size)
            on_tensor()
    finally:
        writer.close()


def tensor_count(directory: Path) -> int:
    """Return how many tensors `write_gguf` writes of a checkpoint."""
    return len(gguf_tensors(directory, load_config(directory), "F16"))


def _announce(
    writer: GGUFWriter,
    name: str,
    shape: tuple[int, ...],
    size: int,
    kind: GGMLQuantizationType,
) -> None:
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)


def _file(writer: GGUFWriter) -> Any:
    """Return the open file: the writer itself takes only whole tensors."""
    if not writer.fout:
        raise RuntimeError("the writer has opened no file")
    return writer.fout[0]


def _rows(tensors: list[GgufTensor]) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    raise InputError(
        "The checkpoint has no embedding of tokens",
        hint="Delete the slice stage's folder in the store and run again",
        subject="spec.exports",
    )
