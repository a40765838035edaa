from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, silu
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    Gemma3Config,
    Gemma3nConfig,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    Qwen3MoeConfig,
)

from persona_jobs.errors import InputError
from persona_jobs.models import architectures, families
from support.tiny import FAMILIES, VARIANTS, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_finds_every_block_and_projection(family):
    model = tiny_model(family, layers=4, intermediate_size=48)
    layers = families.ffn_layers(model)
    assert [layer.index for layer in layers] == [0, 1, 2, 3]
    assert [layer.intermediate_size for layer in layers] == [48] * 4
    for layer, block in zip(layers, families.blocks(model), strict=True):
        assert block.mlp.down_proj is layer.down
        assert sum(len(projection.weight) for projection in layer.expanding) == 2 * 48
        assert layer.down.weight.shape == (32, 48)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_compute_the_gated_ffn(family):
    layer = families.ffn_layers(tiny_model(family))[1]
    x = torch.randn(2, 5, 32)
    gate, up = torch.cat([projection(x) for projection in layer.expanding], dim=-1).chunk(2, dim=-1)
    act = partial(gelu, approximate="tanh") if family.startswith("gemma") else silu
    torch.testing.assert_close(layer.mlp(x), layer.down(act(gate) * up))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_head_gives_the_models_logits(variant):
    family, options = VARIANTS[variant]
    model, ids = tiny_model(family, **options), torch.arange(12).unsqueeze(0)
    hidden_states = families.decoder(model)(input_ids=ids).last_hidden_state
    assert torch.equal(families.head(model)(hidden_states), model(ids).logits)


def test_the_table_names_the_library_s_classes():
    for model_type, family in architectures.FAMILIES.items():
        config = CONFIG_MAPPING[model_type]()
        assert MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__ == family.architecture


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(), "a model of type 'gpt2'"),
        (object(), "a model of type 'unknown'"),
        (MixtralConfig(), "a mixture of experts of type 'mixtral'"),
        (Qwen3MoeConfig(), "a mixture of experts of type 'qwen3_moe'"),
        (Gemma3Config(), "a multimodal model of type 'gemma3'"),
        (Gemma3nConfig(), "a multimodal model of type 'gemma3n'"),
        (Gemma3nTextConfig(), "a model of type 'gemma3n_text'"),
        (
            Gemma3TextConfig(use_bidirectional_attention=True),
            "a gemma3_text model with bidirectional attention",
        ),
    ],
)
def test_other_architectures_are_named_with_the_supported_ones(config, reason):
    with pytest.raises(InputError, match="gemma3_text, llama, mistral, phi3, qwen2") as caught:
        families.check(config)
    assert f"the base model is {reason}, which can't be pruned" in str(caught.value)
    assert caught.value.exit_code == 2


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
    with pytest.raises(InputError, match="block 1: up_proj is a Adapter"):
        families.ffn_layers(model)
