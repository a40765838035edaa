"""Weights of a checkpoint as llama.cpp stores them: names, order of rows, number formats.

Nothing is loaded: a tensor is read, converted and written a few rows at a time, so memory is a
few times `PIECE_BYTES`, whatever the model's size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map
from gguf.quants import quantize
from numpy.typing import NDArray

from ..errors import CorruptArtifactError, InputError
from ..models.safetensors_file import StoredTensor, read_contents, weight_files

PIECE_BYTES = 16 << 20
"""Bytes of float32 numbers that are converted at once; at least one row, or one attention head."""

Quantization = Literal["F16", "Q8_0", "Q4_0"]
QUANTIZATIONS: tuple[Quantization, ...] = ("F16", "Q8_0", "Q4_0")
ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""llama.cpp's names of the model types that can be exported."""

# Buffers that old checkpoints store beside their weights.
_BUFFERS = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")
# The vocabulary's weights decide the next token: they keep 8 bits in a 4-bit file, as llama.cpp's
# own 4-bit files keep more for them than for the rest.
_VOCABULARY = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the GGUF file.

    Attributes:
        name: its name in llama.cpp.
        target: its name in the model.
        source: the stored tensor.
        kind: number format in the GGUF file.
        heads: attention heads whose rows change places, 0 for none: llama.cpp rotates neighbouring
            rows of Llama's queries and keys, transformers the two halves of a head.
        added: what is added to each number: Gemma's norms multiply by 1 + weight.
    """

    name: str
    target: str
    source: StoredTensor
    kind: GGMLQuantizationType
    heads: int = 0
    added: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, as in the checkpoint."""
        return self.source.shape

    @property
    def size(self) -> int:
        """Its bytes in the GGUF file."""
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return int(math.prod(self.shape) // block * block_bytes)

    def pieces(self) -> Iterator[NDArray[Any]]:
        """Yield the converted numbers, some rows at a time.

        Raises:
            CorruptArtifactError: the file ends within the tensor.
            InputError: a weight is too large for the number format.
        """
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        unit = rows // self.heads if self.heads else 1
        step = max(1, PIECE_BYTES // (4 * columns * unit)) * unit
        for first in range(0, rows, step):
            values = _read(self.source, first * columns, min(step, rows - first) * columns)
            values = values.reshape(-1, columns) + np.float32(self.added)
            if self.heads:
                values = _neighbours(values, len(values) // unit)
            yield self._converted(values)

    def _converted(self, values: NDArray[np.float32]) -> NDArray[Any]:
        flat = values if len(self.shape) > 1 else values.reshape(-1)
        with np.errstate(over="ignore"):
            converted: NDArray[Any] = quantize(flat, self.kind)
        largest = np.float32(np.finfo(np.float16).max)
        if self.kind == GGMLQuantizationType.F32:
            fits = bool(np.isfinite(values).all())
        else:
            fits = bool((np.abs(values) <= largest).all())
        if not fits:
            raise InputError(
                f"A weight of {self.source.name} is too large for {self.kind.name}",
                hint="Serve the checkpoint itself: its number format has a wider range",
                subject="spec.exports",
            )
        return converted


def gguf_tensors(directory: Path, config: Any, quantization: Quantization) -> list[GgufTensor]:
    """Return the tensors of the GGUF file, in the order of the checkpoint.

    Args:
        directory: the checkpoint.
        config: its configuration.
        quantization: number format of the matrices. Vectors stay in float32; rows that a block of
            32 numbers doesn't divide stay in float16; the vocabulary's matrices take Q8_0 in a
            Q4_0 file.

    Raises:
        InputError: the architecture can't be exported, or has a tensor that llama.cpp's lacks.
        CorruptArtifactError: a weight file is damaged.
    """
    architecture = architecture_of(config)
    known = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(known, config.num_hidden_layers)
    found = []
    for path in weight_files(directory):
        for stored in read_contents(path)[0]:
            full = stored.name
            if not full.startswith(("model.", "lm_head.")):
                full = f"model.{full}"
            if full.endswith(_BUFFERS) or (full == "lm_head.weight" and config.tie_word_embeddings):
                continue
            name = names.get_name(full, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise InputError(
                    f"llama.cpp's {architecture} has no place for the weights {stored.name}",
                    hint="Remove spec.exports, or use another base model",
                    subject="spec.exports",
                )
            found.append(
                GgufTensor(
                    name=name,
                    target=full,
                    source=stored,
                    kind=_kind(name, stored.shape, quantization),
                    heads=_permuted_heads(architecture, full, config),
                    added=1.0 if architecture == "gemma3" and full.endswith("norm.weight") else 0.0,
                )
            )
    return found


def architecture_of(config: Any) -> str:
    """Return llama.cpp's name of an architecture.

    Raises:
        InputError: it can't be exported.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise InputError(
            f"A model of type {config.model_type} can't be exported as GGUF",
            hint=f"Remove spec.exports, or use a base model of type {', '.join(ARCHITECTURES)}",
            subject="spec.exports",
        )
    return architecture


def _kind(name: str, shape: tuple[int, ...], quantization: Quantization) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[quantization]
    if kind == GGMLQuantizationType.Q4_0 and name in _VOCABULARY:
        kind = GGMLQuantizationType.Q8_0
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else GGMLQuantizationType.F16


def _permuted_heads(architecture: str, name: str, config: Any) -> int:
    """Return the number of heads whose rows change places, 0 for tensors that stay as they are."""
    if architecture != "llama":
        return 0
    if ".q_proj." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in name else 0


def _neighbours(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows in llama.cpp's order: those that are rotated together stand side by side."""
    rows, columns = values.shape
    halves = values.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def in_halves(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows in transformers' order, from llama.cpp's: the inverse of what is written.

    Args:
        values: `[rows, columns]` of whole attention heads.
        heads: how many heads they are.
    """
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _read(tensor: StoredTensor, first: int, count: int) -> NDArray[np.float32]:
    """Return `count` numbers of a stored tensor from number `first` on, as float32."""
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    if tensor.dtype not in kinds:
        raise InputError(
            f"The weights {tensor.name} are stored as {tensor.dtype}, not as floating-point "
            "numbers of 16 or 32 bits",
            hint="Use the base model's unquantized checkpoint",
            subject="spec.baseModel",
        )
    kind = np.dtype(kinds[tensor.dtype])
    values = np.fromfile(
        tensor.path, dtype=kind, count=count, offset=tensor.start + first * kind.itemsize
    )
    if len(values) != count:
        raise CorruptArtifactError(
            f"{tensor.path} ends within the tensor {tensor.name}",
            hint="Delete the slice stage's folder in the store and run again",
            subject=str(tensor.path),
        )
    if tensor.dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
