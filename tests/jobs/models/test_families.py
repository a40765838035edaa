import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig

from persona_jobs.errors import InputError
from persona_jobs.models import families
from support.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_finds_every_block_and_projection(family):
    model = tiny_model(family, layers=4, intermediate_size=48)
    layers = families.ffn_layers(model)
    assert [layer.index for layer in layers] == [0, 1, 2, 3]
    assert [layer.intermediate_size for layer in layers] == [48] * 4
    for layer, block in zip(layers, families.blocks(model), strict=True):
        assert block.mlp.down_proj is layer.down
        assert layer.gate.weight.shape == layer.up.weight.shape == (48, 32)
        assert layer.down.weight.shape == (32, 48)


def test_the_layers_compute_the_gated_ffn():
    model = tiny_model()
    layer = families.ffn_layers(model)[1]
    x = torch.randn(2, 5, 32)
    expected = layer.down(nn.functional.silu(layer.gate(x)) * layer.up(x))
    torch.testing.assert_close(layer.mlp(x), expected)


@pytest.mark.parametrize("config", [GPT2Config(), MixtralConfig(), object()])
def test_other_architectures_are_named_with_the_supported_ones(config):
    with pytest.raises(InputError, match="llama, qwen2, qwen3") as caught:
        families.check(config)
    assert getattr(config, "model_type", "unknown") in str(caught.value)


def test_a_model_of_another_architecture_is_refused():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))
    with pytest.raises(InputError, match="gpt2"):
        families.ffn_layers(model)


def test_a_decoder_without_head_is_refused():
    with pytest.raises(InputError, match="AutoModelForCausalLM"):
        families.ffn_layers(tiny_model().model)


def test_a_wrapped_projection_is_refused():
    class Adapter(nn.Linear):
        pass

    model = tiny_model()
    model.model.layers[1].mlp.up_proj = Adapter(32, 64)
    with pytest.raises(InputError, match=r"block 1: mlp\.up_proj is a Adapter"):
        families.ffn_layers(model)
