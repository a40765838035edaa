"""Table of the model families that can be pruned, by what their `config.json` says.

Nothing here needs torch, so that a model is refused before its weights are fetched or loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """What differs between architectures with a gated feed-forward network (FFN).

    Attribute paths are relative to the causal language model, or to one of its blocks.

    Attributes:
        architecture: the class in transformers.
        layers: path of the list of blocks.
        decoder: path of the decoder stack without the language-model head.
        mlp: path of the FFN in a block.
        expanding: linear layers in the FFN whose output rows are the intermediate channels: gate
            and up, or one layer that holds gate's rows before up's.
        down: linear layer in the FFN whose input columns are the intermediate channels.
        ffn_norm: path of a block's norm between the FFN's output and the residual stream, or None.
        rotary_by_layer_type: whether rotary embeddings differ between `config.layer_types`.
        attention: the implementation in transformers that computes this architecture exactly.
    """

    architecture: str
    layers: str = "model.layers"
    decoder: str = "model"
    mlp: str = "mlp"
    expanding: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    ffn_norm: str | None = None
    rotary_by_layer_type: bool = False
    attention: str = "sdpa"


# By `model_type`; each is covered by the exactness tests.
FAMILIES: dict[str, Family] = {
    "gemma2": Family(
        "Gemma2ForCausalLM",
        ffn_norm="post_feedforward_layernorm",
        attention="eager",  # the library's sdpa ignores the soft cap on attention scores
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", ffn_norm="post_feedforward_layernorm", rotary_by_layer_type=True
    ),
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "phi3": Family("Phi3ForCausalLM", expanding=("gate_up_proj",)),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen3": Family("Qwen3ForCausalLM"),
}


def needs_custom_code(config: Mapping[str, Any]) -> bool:
    """Return whether a model with this `config.json` can't run without code that comes with it.

    Checkpoints from before transformers had their architecture name their own code, which then
    has the library's class name, as Phi-3's do: the library's code is used.

    Args:
        config: the file's content.
    """
    code = config.get("auto_map")
    family = FAMILIES.get(str(config.get("model_type")))
    if not code or family is None or not isinstance(code, Mapping):
        return bool(code)
    return str(code.get("AutoModelForCausalLM")).rpartition(".")[2] != family.architecture


_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
_OTHER_INPUTS = ("vision_config", "audio_config", "text_config", "thinker_config")


@dataclass(frozen=True)
class Refusal:
    """Why a model can't be pruned.

    Attributes:
        what: what it is instead, to follow "describes", such as `a mixture of experts`.
        hint: what to do.
    """

    what: str
    hint: str


def refusal(config: Mapping[str, Any]) -> Refusal | None:
    """Return why a model with this `config.json` can't be pruned, or None if it can.

    Args:
        config: the file's content.
    """
    model_type = str(config.get("model_type") or "unknown")[:50]
    supported = f"Use a base model of type {', '.join(sorted(FAMILIES))}"
    text_only = supported.replace("a base model", "a text-only base model")
    if model_type in FAMILIES:
        if config.get("use_bidirectional_attention"):
            return Refusal(f"a {model_type} model with bidirectional attention", text_only)
        return None
    if any(config.get(name) for name in _OTHER_INPUTS):
        return Refusal(f"a multimodal model of type {model_type!r}", text_only)
    if any(config.get(name) for name in _EXPERTS):
        return Refusal(f"a mixture of experts of type {model_type!r}", supported)
    return Refusal(f"a model of type {model_type!r}", supported)
