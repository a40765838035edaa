"""A tiny random Gemma 3 as a GGUF file, in the form that llama.cpp's converter writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf

from support.tiny import tiny_model

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
TOKENS = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdehilmnorstuvw"]
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_gemma3() -> Any:
    """Six layers, so that the last one sees all tokens; Gemma 3's head size."""
    return tiny_model(
        "gemma3_text",
        layers=6,
        tied=True,
        vocab_size=len(TOKENS),
        num_key_value_heads=1,
        num_attention_heads=2,
        head_dim=256,
        query_pre_attn_scalar=256,
        final_logit_softcapping=None,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    )


def save_gemma3_gguf(
    path: Path, *, change: Callable[[gguf.GGUFWriter], None] = lambda _: None, key_length: int = 256
) -> None:
    """Write `tiny_gemma3` with what `change` adds."""
    model = tiny_gemma3()
    config = model.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(key_length)
    writer.add_value_length(key_length)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types([3] * len(SPECIAL) + [6] * 256 + [1] * (len(TOKENS) - 256 - 6))
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_chat_template(TEMPLATE)
    change(writer)
    for full, weight in model.state_dict().items():
        name = full.removeprefix("model.").removesuffix(".weight")
        if name == "lm_head":
            continue
        if name.startswith("layers."):
            _, layer, part = name.split(".", 2)
            target = f"blk.{layer}.{_PARTS[part]}"
        else:
            target = {"embed_tokens": "token_embd", "norm": "output_norm"}[name]
        stored = weight + 1 if "norm" in name else weight
        writer.add_tensor(f"{target}.weight", stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
