"""Speed of a sliced model against the dense one, beside what bytes and operations allow.

A random Llama of 1B parameters, of which four fifths are FFN, and its slice. Decoding one token
reads every weight once, so it can't be faster than the ratio of bytes; prefill is bound by the
ratio of operations. The models run in alternation; seconds are processor time.
"""

import argparse
import time

import torch
from results import add_output, report
from transformers import LlamaConfig, LlamaForCausalLM

from persona_jobs.evaluation import speed
from persona_jobs.models.slicing import sliced_copy


def linear_weights(model) -> int:
    """Numbers that one token multiplies; the head counts apart."""
    return sum(p.numel() for name, p in model.named_parameters() if "proj" in name)


def make_model(layers: int):
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.uniform_(-0.02, 0.02, generator=generator)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--kept", type=int, default=4096, help="of 8,192 channels in each layer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decode", type=int, default=32, help="tokens that are decoded")
    add_output(parser)
    options = parser.parse_args()
    dense = make_model(options.layers)
    mask = torch.zeros(options.layers, 8192, dtype=torch.bool)
    mask[:, torch.randperm(8192, generator=torch.Generator().manual_seed(1))[: options.kept]] = True
    sliced = sliced_copy(dense, mask)
    # On a shared machine, wall time would measure the other processes too.
    speed._now = lambda _: time.process_time()
    speed.MIN_ROUNDS = speed.MAX_ROUNDS = options.rounds
    speed.DECODE_TOKENS = options.decode
    models = {"dense": speed.Runnable(dense), "sliced": speed.Runnable(sliced)}
    measured = speed.measure(models, before_each=lambda: None)

    head = dense.config.vocab_size * dense.config.hidden_size
    weights = {"dense": linear_weights(dense), "sliced": linear_weights(sliced)}
    bytes_ratio = (weights["dense"] + head) / (weights["sliced"] + head)
    operations = {n: w * speed.PROMPT_TOKENS + head for n, w in weights.items()}
    operations_ratio = operations["dense"] / operations["sliced"]
    decode = measured["sliced"].decode / measured["dense"].decode
    prefill = measured["sliced"].prefill / measured["dense"].prefill
    spread = {
        f"{kind}.{name}": " ".join(
            f"{value:.1f}" for value in (getattr(one, kind), *getattr(one, f"{kind}_range"))
        )
        for name, one in measured.items()
        for kind in ("prefill", "decode")
    }
    report(
        "sliced_speed",
        options,
        {
            "parametersDense": sum(p.numel() for p in dense.parameters()),
            "parametersSliced": sum(p.numel() for p in sliced.parameters()),
            **{f"{name} (median, range)": text for name, text in spread.items()},
            "bytesRatio": round(bytes_ratio, 3),
            "decodeRatio": round(decode, 3),
            "operationsRatio": round(operations_ratio, 3),
            "prefillRatio": round(prefill, 3),
        },
        bounds={
            "decodeRatio": f">= {0.9 * bytes_ratio:.3f}",
            "prefillRatio": f">= {0.9 * operations_ratio:.3f}",
        },
        met={
            "decodeRatio": decode >= 0.9 * bytes_ratio,
            "prefillRatio": prefill >= 0.9 * operations_ratio,
        },
    )


if __name__ == "__main__":
    main()
