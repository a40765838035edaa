"""The shape of a base model: all that the estimates need to know of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Model types whose configuration need not say that they share embeddings and head.
_TIED = ("gemma", "gemma2", "gemma3", "gemma3_text")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder with grouped-query attention and a gated FFN.

    Attributes:
        layers: decoder blocks, L.
        hidden_size: d.
        intermediate_size: FFN channels per block, d_ff.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: numbers per head.
        vocabulary: tokens, V.
        tied: whether embeddings and head are one matrix.
        stored_bytes: bytes per weight in the checkpoint.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    stored_bytes: int

    @property
    def ffn_parameters(self) -> int:
        """Weights of all FFNs: gate, up and down."""
        return 3 * self.layers * self.hidden_size * self.intermediate_size

    @property
    def block_parameters(self) -> int:
        """Weights of all blocks."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return self.ffn_parameters + self.layers * (attention + 2 * self.hidden_size)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embeddings and the head."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights, without biases."""
        return self.block_parameters + self.embedding_parameters + self.hidden_size


def from_config(config: Mapping[str, Any]) -> ModelShape:
    """Return the shape that a Hugging Face `config.json` describes.

    Raises:
        KeyError: a size is missing.
        ValueError: a size is not a number.
    """
    heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    dtype = config.get("dtype") or config.get("torch_dtype")
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        layers=int(config["num_hidden_layers"]),
        hidden_size=hidden_size,
        intermediate_size=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden_size // heads),
        vocabulary=int(config["vocab_size"]),
        tied=config.get("model_type") in _TIED if tied is None else bool(tied),
        stored_bytes=_BYTES.get(str(dtype), 4),
    )


def from_gguf(metadata: Mapping[str, Any], *, tokens: int, tied: bool) -> ModelShape:
    """Return the shape that the metadata of a GGUF file describes; it is stored as bfloat16.

    Args:
        metadata: the file's metadata by name.
        tokens: tokens in the file's vocabulary.
        tied: whether the file has no head of its own.

    Raises:
        KeyError: a size is missing.
    """
    architecture = metadata["general.architecture"]

    def value(name: str, default: int | None = None) -> int:
        found = metadata.get(f"{architecture}.{name}", default)
        if found is None:
            raise KeyError(f"{architecture}.{name}")
        return int(found)

    hidden_size, heads = value("embedding_length"), value("attention.head_count")
    return ModelShape(
        layers=value("block_count"),
        hidden_size=hidden_size,
        intermediate_size=value("feed_forward_length"),
        heads=heads,
        kv_heads=value("attention.head_count_kv", heads),
        head_dim=value("attention.key_length", hidden_size // heads),
        vocabulary=tokens,
        tied=tied,
        stored_bytes=_BYTES["bfloat16"],
    )
