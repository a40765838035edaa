"""Contents of GGUF files: shards, metadata and tensors that a conversion must account for."""

import math
import re
from pathlib import Path
from typing import Any

from ..errors import CorruptArtifactError, InputError

ARCHITECTURES = {"gemma3": "gemma3_text", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Values of `general.architecture` that can be converted, with transformers' names for them.

Mistral's files have the architecture llama. transformers loses values of Gemma 2's and Phi-3's.
"""

USE_ANOTHER = f"Use a GGUF file of the architecture {', '.join(ARCHITECTURES)}, or safetensors"
"""Hint for files that can't be converted."""

ROPE_TENSOR = "rope_freqs.weight"

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

# Metadata that transformers takes for all architectures; each value is one number.
_TAKEN = {
    "context_length",
    "block_count",
    "feed_forward_length",
    "embedding_length",
    "rope.freq_base",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "vocab_size",
}
# Metadata that is compared with the result, or carried over as RoPE scaling.
_HEAD_SIZES = ("rope.dimension_count", "attention.key_length", "attention.value_length")
_ROPE = {
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
_WITHOUT_EFFECT = {"rope.scaling.finetuned", "tensor_data_layout"}
# Gemma 3's attention scores are scaled by 1 / sqrt(256): transformers takes no other head size.
_GEMMA3 = {
    "attention.key_length": (256,),
    "attention.sliding_window_pattern": (6,),
    "rope.freq_base_swa": (10000,),
}
# Values with which metadata that can't be carried over has no effect.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "rope.scaling.yarn_attn_factor": (1,),
}


def shard_names(name: str) -> list[str]:
    """Return the names of all shards of a split GGUF file, or only `name` if it is no shard."""
    match = _SHARD.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return [name]
    count = int(match["count"])
    return [
        f"{match['stem']}-{number:05d}-of-{match['count']}.gguf" for number in range(1, count + 1)
    ]


def shards(path: Path) -> list[Path]:
    """Return the shards beside `path`, the first one first, or only `path` if it is no shard.

    Raises:
        InputError: shards are missing.
    """
    found = [path.with_name(name) for name in shard_names(path.name)]
    missing = [shard.name for shard in found if not shard.exists()]
    if missing and path.exists():
        raise InputError(
            f"{path} is one of {len(found)} shards, and {len(missing)} of them are missing: "
            f"{', '.join(missing[:5])}",
            hint="Put all shards into one directory",
            subject=str(path),
        )
    return found if path.exists() else [path]


def metadata(readers: list[Any]) -> dict[str, Any]:
    """Return the metadata of a GGUF file from the readers of its shards."""
    return {name: field.contents() for name, field in readers[0].fields.items()}


def check_shards(path: Path, readers: list[Any]) -> None:
    """Check that the shards are the ones that the first shard's metadata announces.

    Raises:
        InputError: the file is a renamed shard, or the shards belong to different files.
    """
    values = [metadata([reader]) for reader in readers]
    counts = [int(value.get("split.count", 1) or 1) for value in values]
    numbers = [int(value.get("split.no", 0)) for value in values]
    if set(counts) != {len(readers)} or numbers != list(range(len(readers))):
        raise InputError(
            f"{path} is shard {numbers[0] + 1} of {max(counts)}, but its name does not lead to "
            "the other shards",
            hint="Give the shards their original names (NAME-00001-of-00002.gguf), or merge them "
            "with llama-gguf-split",
            subject=str(path),
        )
    held = sum(len(reader.tensors) for reader in readers)
    announced = int(values[0].get("split.tensors.count", held))
    if held != announced:
        raise CorruptArtifactError(
            f"The shards of {path} have {held} tensors instead of {announced}",
            hint="Fetch the shards again",
            subject=str(path),
        )


def merge(readers: list[Any], target: Path) -> None:
    """Write the shards' metadata and tensors into one GGUF file."""
    import gguf

    first = readers[0]
    writer = gguf.GGUFWriter(target, first.fields["general.architecture"].contents())
    for name, field in first.fields.items():
        if name.startswith(("GGUF.", "split.")) or name == "general.architecture":
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=element)
    for reader in readers:
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_metadata(path: Path, values: dict[str, Any]) -> None:
    """Check that the architecture is known and that no metadata is lost that changes arithmetic.

    Raises:
        InputError: the architecture is unknown, or metadata can't be carried over.
    """
    architecture = values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{path} can't be converted: its architecture is {str(architecture)[:50]!r}",
            hint=USE_ANOTHER,
            subject=str(path),
        )
    prefix = f"{architecture}."
    for name, value in values.items():
        key = name.removeprefix(prefix)
        if architecture == "gemma3":
            if key == "attention.sliding_window" or value in _GEMMA3.get(key, ()):
                continue
            if key in _GEMMA3:
                raise _refused(path, name, value)
        if key == name or key in _ROPE or key in _HEAD_SIZES or key in _WITHOUT_EFFECT:
            continue
        if key in _TAKEN and not isinstance(value, list):
            continue
        if key not in _TAKEN and value in _NEUTRAL.get(key, (0,)):
            continue
        raise _refused(path, name, value)


def rope_scaling(path: Path, values: dict[str, Any], config: Any, tensor: Any) -> dict[str, Any]:
    """Return the RoPE parameters of transformers that scale positions as the GGUF file does.

    Args:
        path: the GGUF file.
        values: its metadata.
        config: the configuration that transformers made from it.
        tensor: the values of `rope_freqs.weight`, None without it.

    Raises:
        InputError: transformers has no such scaling.
    """
    prefix = f"{values['general.architecture']}.rope."
    kind = values.get(f"{prefix}scaling.type")
    factor = float(values.get(f"{prefix}scaling.factor", values.get(f"{prefix}scale_linear", 1)))
    original = values.get(f"{prefix}scaling.original_context_length")
    scaled = kind != "none" and factor not in (0, 1)
    if tensor is not None:
        return {} if not scaled and (tensor == 1).all() else _llama3(path, config, tensor, scaled)
    if not scaled:
        return {}
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and original:
        found = {"rope_type": "yarn", "factor": factor}
        found["original_max_position_embeddings"] = int(original)
        for name in ("beta_fast", "beta_slow"):
            if f"{prefix}scaling.yarn_{name}" in values:
                found[name] = float(values[f"{prefix}scaling.yarn_{name}"])
        return found
    raise _refused(path, f"{prefix}scaling.type", kind)


def global_rope(config: Any) -> dict[str, Any]:
    """Return the RoPE parameters of the layers that see all tokens, to be changed in place."""
    parameters: dict[str, Any] = config.rope_parameters
    nested: dict[str, Any] = parameters.get("full_attention", parameters)
    return nested


def _llama3(path: Path, config: Any, tensor: Any, scaled: bool) -> dict[str, Any]:
    """Return the parameters of Llama 3's scaling, which GGUF stores as divisors of frequencies."""
    import numpy

    base = float(global_rope(config)["rope_theta"])
    pairs = numpy.arange(len(tensor), dtype=numpy.float64)
    wavelengths = 2 * math.pi * base ** (pairs / len(tensor))
    factor, low, high, original = float(round(float(max(tensor)), 3)), 1.0, 4.0, 8192
    smooth = (original / wavelengths - low) / (high - low)
    divisors = 1 / ((1 - smooth) / factor + smooth)
    divisors = numpy.where(wavelengths < original / high, 1.0, divisors)
    divisors = numpy.where(wavelengths > original / low, factor, divisors)
    if scaled or not numpy.allclose(divisors, tensor, rtol=1e-4, atol=0):
        raise InputError(
            f"{path} scales positions with a tensor ({ROPE_TENSOR}) that is not Llama 3's scaling",
            hint="Use the model's safetensors checkpoint",
            subject=str(path),
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def check_result(path: Path, values: dict[str, Any], tensors: set[str], model: Any) -> None:
    """Check that the model has the file's architecture and took each of its tensors.

    Args:
        path: the GGUF file.
        values: its metadata.
        tensors: the names of its tensors.
        model: what transformers made from it.

    Raises:
        InputError: a tensor or a value was lost.
        CorruptArtifactError: a weight of the model is not in the file.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = values["general.architecture"]
    config = model.config
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    for key in _HEAD_SIZES:
        if values.get(f"{architecture}.{key}", head_size) != head_size:
            raise _refused(path, f"{architecture}.{key}", values[f"{architecture}.{key}"])
    if config.model_type != ARCHITECTURES[architecture]:
        raise InputError(
            f"{path} can't be converted: transformers reads its architecture {architecture} as a "
            f"model of type {config.model_type}",
            hint="Use the model's safetensors checkpoint",
            subject=str(path),
        )
    base = float(values.get(f"{architecture}.rope.freq_base", 10000))
    if global_rope(config)["rope_theta"] != base:
        raise _refused(path, f"{architecture}.rope.freq_base", base)
    known = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(known, config.num_hidden_layers)
    wanted = set()
    for full in model.state_dict():
        name, _, suffix = full.rpartition(".")
        wanted.add(f"{names.get_name(name)}.{suffix}")
    if config.tie_word_embeddings:
        wanted.discard("output.weight")
    if missing := sorted(wanted - tensors):
        raise CorruptArtifactError(
            f"{path} has no tensor {', '.join(missing[:3])} ({len(missing)} are missing)",
            hint="Fetch the file again, or use the model's safetensors checkpoint",
            subject=str(path),
        )
    if unread := sorted(tensors - wanted - {ROPE_TENSOR}):
        raise InputError(
            f"{path} has tensors that a {architecture} model does not use: "
            f"{', '.join(unread[:3])} ({len(unread)} in all)",
            hint="Use the model's safetensors checkpoint",
            subject=str(path),
        )


def _refused(path: Path, name: str, value: Any) -> InputError:
    return InputError(
        f"{path} has the metadata {name} = {str(value)[:50]}, which can't be carried over",
        hint="Use the model's safetensors checkpoint",
        subject=str(path),
    )
