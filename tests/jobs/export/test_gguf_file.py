"""A checkpoint as a GGUF file, read back by transformers: same weights, same logits."""

import subprocess
import sys

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from persona_jobs.errors import InputError
from persona_jobs.export.gguf_file import write_gguf
from persona_jobs.export.gguf_tensors import gguf_tensors
from persona_jobs.export.perplexity import load_weights
from support.byte_pairs import byte_pair_tokenizer
from support.sentence_piece import sentence_piece_tokenizer
from support.tiny import LLAMA3_ROPE, save_checkpoint, tiny_model

# Sizes whose rows a block of 32 numbers divides, and the head sizes that transformers presumes.
MODELS = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tied": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tied": True}),
    "qwen3": ("qwen3", {"head_dim": 128}),
    "gemma3": (
        "gemma3_text",
        {
            "layers": 7,
            "tied": True,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "final_logit_softcapping": None,
            "sliding_window": 1024,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        },
    ),
}


@pytest.fixture
def checkpoint(tmp_path):
    def make(name, **more):
        family, options = MODELS[name]
        folder = tmp_path / "checkpoint"
        tokenizer = byte_pair_tokenizer()
        if family == "gemma3_text":
            tokenizer = sentence_piece_tokenizer()
        more["vocab_size"] = len(tokenizer)
        save_checkpoint(tiny_model(family, **{**options, **more}), tokenizer, folder)
        return folder

    return make


def export(folder, quantization="F16"):
    target = folder.parent / "export"
    target.mkdir(exist_ok=True)
    write_gguf(folder, target / "model.gguf", quantization, texts={"general.name": "Flint"})
    return target


def loaded(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def read_back(folder):
    return loaded(folder, gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True))


def logits(model):
    ids = torch.arange(1, 40).remainder(model.config.vocab_size)[None]
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_the_same_model(checkpoint, name):
    folder = checkpoint(name)
    ours, theirs = loaded(folder), read_back(export(folder))
    expected = logits(ours)
    assert torch.allclose(logits(theirs), expected, atol=0.02 * float(expected.std()))
    weights = theirs.state_dict()
    for key, weight in ours.state_dict().items():
        assert torch.allclose(weights[key], weight, atol=1e-3), key


@pytest.mark.parametrize(("quantization", "error"), [("Q8_0", 0.01), ("Q4_0", 0.16)])
def test_rounded_weights_stay_close(checkpoint, quantization, error):
    folder = checkpoint("llama")
    ours, theirs = loaded(folder).state_dict(), read_back(export(folder, quantization)).state_dict()
    for key, weight in ours.items():
        largest = error * float(weight.abs().max())
        assert float((theirs[key] - weight).abs().max()) <= largest, key


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantization", ["F16", "Q4_0"])
def test_what_is_measured_is_what_was_written(checkpoint, name, quantization):
    folder = checkpoint(name)
    path = export(folder, quantization) / "model.gguf"
    model = loaded(folder)
    load_weights(model, path, gguf_tensors(folder, model.config, quantization))
    expected = read_back(path.parent).state_dict()
    for key, weight in model.state_dict().items():
        assert torch.allclose(weight, expected[key], atol=1e-6), key


def test_a_4_bit_file_keeps_8_bits_for_the_vocabulary(checkpoint):
    reader = gguf.GGUFReader(export(checkpoint("llama"), "Q4_0") / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down.weight"] == kinds["blk.2.attn_q.weight"] == "Q4_0"
    assert kinds["blk.0.ffn_norm.weight"] == "F32"


def test_rows_that_no_block_divides_keep_16_bits(checkpoint):
    reader = gguf.GGUFReader(
        export(checkpoint("llama", intermediate_size=72), "Q8_0") / "model.gguf"
    )
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"


def test_llama_3s_positions_become_divisors(checkpoint):
    rope = {**LLAMA3_ROPE, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    folder = checkpoint("llama", hidden=256, rope_parameters=rope)
    reader = gguf.GGUFReader(export(folder) / "model.gguf")
    found = next(tensor for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaled = LlamaRotaryEmbedding(loaded(folder).config).inv_freq
    plain = 500_000.0 ** -(torch.arange(0, 64, 2) / 64)
    assert torch.allclose(torch.tensor(found.data.copy()), plain / scaled, rtol=1e-4)


def test_the_context_ends_where_a_window_would_move(checkpoint):
    reader = gguf.GGUFReader(export(checkpoint("mistral", sliding_window=96)) / "model.gguf")
    assert reader.fields["llama.context_length"].contents() == 96


@pytest.mark.parametrize("family", ["gemma2", "phi3"])
def test_families_without_an_export_are_refused(tmp_path, family):
    save_checkpoint(tiny_model(family, vocab_size=400), byte_pair_tokenizer(), tmp_path / "c")
    with pytest.raises(InputError, match=f"A model of type {family} can't be exported as GGUF"):
        write_gguf(tmp_path / "c", tmp_path / "model.gguf", "F16", texts={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_logit_softcapping": 4.0}, "caps its scores"),
        ({"query_pre_attn_scalar": 128}, "scales attention scores"),
        ({"layer_types": ["full_attention"]}, "another order of sliding and full attention"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(checkpoint, change, message):
    with pytest.raises(InputError, match=message):
        export(checkpoint("gemma3", **change))


def test_scaled_positions_that_llama_cpp_lacks_are_refused(checkpoint):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(InputError, match="scales positions by dynamic"):
        export(checkpoint("llama", rope_parameters=rope))


def test_a_weight_beyond_16_bits_is_refused_by_name(tmp_path):
    model = tiny_model("llama", vocab_size=400)
    model.model.layers[1].mlp.up_proj.weight[3, 5] = 70_000.0
    save_checkpoint(model, byte_pair_tokenizer(), tmp_path / "c")
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight is too large for F16"):
        write_gguf(tmp_path / "c", tmp_path / "model.gguf", "F16", texts={})


MEMORY = """
import resource, sys
from pathlib import Path
from persona_jobs.export.gguf_file import write_gguf
small, large, target = map(Path, sys.argv[1:])
write_gguf(small, target, "Q8_0", texts={})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_gguf(large, target, "Q8_0", texts={})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_the_model(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    save_checkpoint(tiny_model("llama", vocab_size=400), byte_pair_tokenizer(), small)
    model = tiny_model("llama", vocab_size=400, layers=40, hidden=512, intermediate_size=1536)
    save_checkpoint(model, byte_pair_tokenizer(), large)
    size = sum(path.stat().st_size for path in large.glob("*.safetensors"))
    assert size > 400e6
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, small, large, tmp_path / "model.gguf"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) < size / 4
