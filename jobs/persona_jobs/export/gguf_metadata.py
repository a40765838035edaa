"""What a GGUF file says of a model beside its weights: sizes, positions, attention.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What llama.cpp would compute
otherwise than transformers is refused.
"""

import math
from typing import Any

import numpy as np
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from ..errors import InputError
from .gguf_tensors import architecture_of

GEMMA_PATTERN = 6
"""Every sixth layer of Gemma 3 sees all tokens; llama.cpp knows no other pattern for it."""


def add_model_metadata(writer: GGUFWriter, config: Any) -> None:
    """Add sizes, norms and positions.

    Args:
        writer: where to add them.
        config: the checkpoint's configuration.

    Raises:
        InputError: llama.cpp can't compute what the configuration says.
    """
    architecture = architecture_of(config)
    head_size = head_size_of(config)
    writer.add_context_length(_context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "gemma3":
        _check_gemma3(config, head_size)
        writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_rope_dimension_count(head_size)
    _add_rope(writer, config)


def head_size_of(config: Any) -> int:
    """Return the size of an attention head."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size)


def rope_frequency_divisors(config: Any) -> NDArray[np.float32] | None:
    """Return Llama 3's scaling of positions as llama.cpp stores it, or None without it.

    Returns:
        Divisors of the rotary frequencies, `[head size / 2]`, for the tensor `rope_freqs.weight`.
    """
    rope = _global_rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    pairs = head_size_of(config) // 2
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(pairs) / pairs)
    factor, original = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = (original / wavelengths - low) / (high - low)
    divisors = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelengths < original / high, 1.0, divisors)
    divisors = np.where(wavelengths > original / low, factor, divisors)
    return divisors.astype(np.float32)


def _global_rope(config: Any) -> dict[str, Any]:
    """Return the positions of the layers that see all tokens."""
    parameters = getattr(config, "rope_parameters", None) or {}
    rope: dict[str, Any] = parameters.get("full_attention", parameters)
    return rope


def _add_rope(writer: GGUFWriter, config: Any) -> None:
    rope = _global_rope(config)
    kind = rope.get("rope_type", "default")
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000)))
    if rope.get("partial_rotary_factor", 1) != 1:
        raise _refused("rotates a part of each attention head")
    if kind in ("default", "llama3"):
        return
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "yarn" and not rope.keys() & {"mscale", "mscale_all_dim", "attention_factor"}:
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_rope_scaling_orig_ctx_len(int(original))
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(float(rope["beta_fast"]))
        if "beta_slow" in rope:
            writer.add_rope_scaling_yarn_beta_slow(float(rope["beta_slow"]))
    else:
        raise _refused(f"scales positions by {kind}")


def _context_length(config: Any) -> int:
    """Return the longest sequence that llama.cpp computes as transformers does.

    Its Llama and Qwen know no sliding window, so the context ends where the window would begin to
    move.
    """
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if not window or architecture_of(config) == "gemma3":
        return longest
    types = getattr(config, "layer_types", None)
    if types and "sliding_attention" not in types:
        return longest
    return min(longest, int(window))


def _check_gemma3(config: Any, head_size: int) -> None:
    wanted = [
        "full_attention" if (layer + 1) % GEMMA_PATTERN == 0 else "sliding_attention"
        for layer in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) != wanted:
        raise _refused("has another order of sliding and full attention than Gemma 3")
    scaled_by = config.query_pre_attn_scalar
    if config.num_hidden_layers == 62:  # the 27B model, whose scale llama.cpp takes by its depth
        head_size = config.hidden_size // config.num_attention_heads
    if scaled_by != head_size:
        raise _refused(f"scales attention scores by 1 / sqrt({scaled_by})")
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, name, None):
            raise _refused(f"caps its scores ({name})")
    local = (getattr(config, "rope_parameters", None) or {}).get("sliding_attention", {})
    if float(local.get("rope_theta", 10_000)) != 10_000 or (
        local.get("rope_type", "default") != "default"
    ):
        raise _refused("has other positions in its sliding layers than Gemma 3")


def _refused(what: str) -> InputError:
    return InputError(
        f"The model {what}, which llama.cpp doesn't do for this architecture",
        hint="Remove spec.exports, or use another base model",
        subject="spec.exports",
    )
