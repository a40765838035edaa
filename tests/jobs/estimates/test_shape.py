"""Shapes count the weights that the models have."""

import pytest

from persona_jobs.estimates.shape import from_config, from_gguf
from support.tiny import FAMILIES, tiny_model

LLAMA_3B = {
    "model_type": "llama",
    "num_hidden_layers": 28,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
LLAMA_8B = {
    **LLAMA_3B,
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "count"), [(LLAMA_3B, 3_212_749_824), (LLAMA_8B, 8_030_261_248)]
)
def test_the_weights_of_published_models_are_counted(config, count):
    shape = from_config(config)
    assert shape.parameters == count
    assert shape.stored_bytes == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_of_every_family_are_counted(family, tied):
    model = tiny_model(family, tied=tied)
    shape = from_config(model.config.to_dict())
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    norms = (2 * shape.layers + 1) * shape.hidden_size
    assert shape.parameters - norms == matrices


def test_what_a_configuration_leaves_out_has_its_usual_value():
    short = {k: v for k, v in LLAMA_8B.items() if k not in ("head_dim", "tie_word_embeddings")}
    assert from_config(short).parameters == 8_030_261_248
    assert from_config({**short, "model_type": "gemma2"}).tied
    assert from_config({k: v for k, v in short.items() if k != "torch_dtype"}).stored_bytes == 4


def test_a_missing_size_is_an_error():
    with pytest.raises(KeyError, match="intermediate_size"):
        from_config({k: v for k, v in LLAMA_3B.items() if k != "intermediate_size"})
    with pytest.raises(KeyError, match="embedding_length"):
        from_gguf({"general.architecture": "llama"}, tokens=10, tied=False)
