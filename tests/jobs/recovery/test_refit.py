"""The closed-form refit against a plain implementation, and what it is for."""

import copy

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.models.families import blocks, ffn_layers
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.refit import refit
from persona_jobs.training.passes import mean_answer_loss, with_dense_hidden_states
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

PERSONA = "You are a captain."
QUERIES = [f"Question {n}: {'why ' * (n % 4)}so?" for n in range(12)]
EXAMPLES = [Example.of(PERSONA, q, f"Aye {q[::-1]}") for q in QUERIES]
RIDGE = 0.1


def sliced_model(dense, kept=40):
    mask = top_k_mask(torch.rand(3, 64, generator=torch.Generator().manual_seed(1)), kept)
    sliced = copy.deepcopy(dense)
    slice_model(sliced, mask)
    return sliced, mask


def down_target(block, seen):
    """What `down_proj` should put out so that the block's output is the dense one's."""
    down = seen["down"][0].double()
    if not hasattr(block, "post_feedforward_layernorm"):
        return (seen["y"] - seen["out"])[0].double() + down
    norm = block.post_feedforward_layernorm  # down / rms(down) * (1 + weight)
    behind = (seen["y"] - seen["out"])[0].double() + norm(seen["down"])[0].double()
    before = behind / (1 + norm.weight.double())
    return before / before.norm(dim=-1, keepdim=True) * down.norm(dim=-1, keepdim=True)


def plain_refit(dense, sliced, data):
    """The same with whole sequences, library forward passes and a dense solve."""
    for index, layer in enumerate(ffn_layers(sliced)):
        gram = torch.zeros(layer.intermediate_size, layer.intermediate_size, dtype=torch.float64)
        cross = torch.zeros(layer.intermediate_size, layer.down.out_features, dtype=torch.float64)
        for row, suffix in enumerate(data.suffixes):
            ids = torch.tensor([data.prefix + suffix])
            # The shared prompt counts once.
            first = 0 if row == 0 else len(data.prefix)
            seen = {}
            handles = [
                blocks(dense)[index].register_forward_hook(
                    lambda _m, _a, out: seen.__setitem__("y", out)
                ),
                blocks(sliced)[index].register_forward_hook(
                    lambda _m, _a, out: seen.__setitem__("out", out)
                ),
                layer.down.register_forward_hook(
                    lambda _m, args, out: seen.update(a=args[0], down=out)
                ),
            ]
            with torch.no_grad():
                dense(ids)
                sliced(ids)
            for handle in handles:
                handle.remove()
            a, target = seen["a"][0].double(), down_target(blocks(sliced)[index], seen)
            if layer.down.bias is not None:
                target = target - layer.down.bias.double()
            if hasattr(blocks(sliced)[index], "post_feedforward_layernorm"):
                size = seen["down"][0].double().square().mean(-1, keepdim=True).sqrt()
                a, target = a / size, target / size
            a, target = a[first:], target[first:]
            gram += a.T @ a
            cross += a.T @ target
        penalty = torch.diag(RIDGE * gram.diagonal())
        solved = torch.linalg.solve(gram + penalty, cross + penalty @ layer.down.weight.double().T)
        with torch.no_grad():
            layer.down.weight.copy_(solved.T)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_refit_equals_a_plain_one(family, tmp_path):
    dense = tiny_model(family)
    data = tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=500)
    expected, _ = sliced_model(dense)
    actual, _ = sliced_model(dense)
    plain_refit(dense, expected, data)
    refit(dense, actual, [data], ridge=RIDGE, scratch=tmp_path)
    for one, other in zip(ffn_layers(actual), ffn_layers(expected), strict=True):
        assert torch.allclose(one.down.weight, other.down.weight, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_refit_moves_the_sliced_model_closer_to_the_dense_one(family, tmp_path):
    dense = tiny_model(family)
    tokenizer = tiny_tokenizer()
    train = tokenize(tokenizer, EXAMPLES[:9], max_tokens=500)
    held_out = tokenize(tokenizer, EXAMPLES[9:], max_tokens=500)
    held_out = with_dense_hidden_states(dense, held_out)
    sliced, mask = sliced_model(dense)
    untouched = {n: p.clone() for n, p in dense.named_parameters()}
    before = mean_answer_loss(sliced, held_out, "KL")
    with masked(dense, mask):
        assert mean_answer_loss(dense, held_out, "KL") == pytest.approx(before, rel=1e-3)
    calls = []
    refit(dense, sliced, [train], ridge=RIDGE, scratch=tmp_path, on_layer=lambda: calls.append(1))
    assert len(calls) == 3
    assert mean_answer_loss(sliced, held_out, "KL") < 0.8 * before
    assert all(torch.equal(p, untouched[n]) for n, p in dense.named_parameters())
    assert not list(tmp_path.iterdir()), "the streams are removed"


def test_without_pruned_channels_the_refit_changes_nothing(tmp_path):
    dense = tiny_model()
    same = copy.deepcopy(dense)
    data = tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=500)
    refit(dense, same, [data], ridge=RIDGE, scratch=tmp_path)
    for one, other in zip(ffn_layers(same), ffn_layers(dense), strict=True):
        assert torch.allclose(one.down.weight, other.down.weight, atol=1e-4)
