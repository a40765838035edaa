import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.mask_learning.activation_rms import activation_rms
from persona_jobs.models.families import ffn_layers
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

EXAMPLES = [
    Example.of("You are a captain.", query, f"Aye, {query.lower()} Ask the sea.")
    for query in ("Who are you?", "Sing.", "What is rum?", "Where do you live?")
]


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_rms_equals_a_plain_pass(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    data = tokenize(tokenizer, EXAMPLES, max_tokens=500)
    squares = [torch.zeros(layer.intermediate_size) for layer in ffn_layers(model)]
    count = 0
    for suffix in data.suffixes:
        seen = {}
        handles = [
            layer.down.register_forward_pre_hook(
                lambda _m, args, i=layer.index: seen.__setitem__(i, args[0][0])
            )
            for layer in ffn_layers(model)
        ]
        model(torch.tensor([data.prefix + suffix]))
        for handle in handles:
            handle.remove()
        for index, activation in seen.items():
            squares[index] += activation[len(data.prefix) :].square().sum(dim=0)
        count += len(suffix)
    expected = torch.stack(squares).div(count).sqrt()
    assert torch.allclose(activation_rms(model, data), expected, atol=1e-5, rtol=1e-4)
