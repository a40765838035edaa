"""Tiny random models and a tokenizer for tests: real classes, made in milliseconds."""

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from persona_jobs.models import architectures
from persona_jobs.models.chat_template import set_default_system

_CLASSES: dict[str, tuple[Any, Any]] = {
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
FAMILIES = tuple(_CLASSES)
# Where a family can have them: windows shorter than a test's rows, caps low enough to matter.
_OPTIONS: dict[str, dict[str, Any]] = {
    "gemma2": {
        "sliding_window": 6,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "sliding_window": 6,
        "query_pre_attn_scalar": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 4.0,
    },
    "mistral": {"sliding_window": 7},
    "phi3": {"sliding_window": 8, "original_max_position_embeddings": 2048},
}
# The attention implementations of transformers that compute each family exactly.
ATTENTION = [
    (family, attention)
    for family in FAMILIES
    for attention in ("sdpa", "eager")
    if attention in (architectures.FAMILIES[family].attention, "eager")
]
# Weights that are fused, tied or biased, and positions that are scaled.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    **{f"{family}-tied": (family, {"tied": True}) for family in FAMILIES},
    "gemma2-biased": ("gemma2", {"attention_bias": True}),
    "gemma3_text-uncapped": ("gemma3_text", {"final_logit_softcapping": None}),
    "llama-biased": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "mistral-without-window": ("mistral", {"sliding_window": None}),
    "phi3-partial-rotary": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "phi3-longrope": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
            },
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3-biased": ("qwen3", {"attention_bias": True}),
}
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 256 + len(SPECIAL)


def tiny_model(
    family: str = "llama",
    seed: int = 0,
    *,
    layers: int = 3,
    hidden: int = 32,
    intermediate_size: int = 64,
    tied: bool = False,
    vocab_size: int = VOCABULARY,
    attn_implementation: str | None = None,
    **config: Any,
) -> Any:
    """A random causal language model, frozen, float32, in evaluation mode.

    The weights are large enough that channels matter; biases and norms are random too.
    """
    config_class, model_class = _CLASSES[family]
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "eos_token_id": VOCABULARY - 1,
        "bos_token_id": VOCABULARY - 3,
        "pad_token_id": VOCABULARY - 3,
        "attn_implementation": attn_implementation or architectures.FAMILIES[family].attention,
        **_OPTIONS.get(family, {}),
        **config,
    }
    if types := values.get("layer_types"):
        values["layer_types"] = [types[layer % len(types)] for layer in range(layers)]
    model = model_class(config_class(**values))
    centre = 0 if family.startswith("gemma") else 1  # Gemma's norms multiply by 1 + weight
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(centre + 0.1 * noise)
            elif "embed" in name or "lm_head" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(0.2 * noise)
    model.eval()
    return model.requires_grad_(False)


def tiny_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer (one token per byte) with ChatML's special tokens.

    `<|im_end|>` is the end-of-sequence token; any text encodes and decodes without loss.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


def save_checkpoint(
    model: Any, tokenizer: Any, directory: Path, *, system_prompt: str | None = None
) -> None:
    """Save a model as transformers does, with `system_prompt` in the chat template."""
    model.save_pretrained(directory)
    saved = copy.deepcopy(tokenizer)
    if system_prompt is not None:
        set_default_system(saved, system_prompt)
    saved.save_pretrained(directory)


def tiny_checkpoint(directory: Any, family: str = "llama", seed: int = 0, **options: Any) -> Any:
    """Save a tiny model and tokenizer as a Hugging Face checkpoint; returns the directory."""
    tiny_model(family, seed, **options).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
