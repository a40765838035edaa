"""The closed-form refit against a plain implementation, and what it is for."""

import copy

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.models.families import blocks, ffn_layers
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.refit import refit_block
from persona_jobs.recovery.streams import WeightedSet
from persona_jobs.recovery.walk import walk
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


def refit(dense, sliced, sets, *, ridge, scratch):
    weighted = [WeightedSet(*item) for item in sets]
    for step in walk(dense, sliced, weighted, [], scratch=scratch, weights={}):
        refit_block(step, (ridge,))


def plain_refit(dense, sliced, sets):
    """The same with whole sequences, library forward passes and a dense solve."""
    for index, layer in enumerate(ffn_layers(sliced)):
        gram = torch.zeros(layer.intermediate_size, layer.intermediate_size, dtype=torch.float64)
        cross = torch.zeros(layer.intermediate_size, layer.down.out_features, dtype=torch.float64)
        for data, weight in sets:
            scale = weight / (len(data.prefix) + sum(len(suffix) for suffix in data.suffixes))
            for row, suffix in enumerate(data.suffixes):
                # The shared prompt counts once.
                first = 0 if row == 0 else len(data.prefix)
                ids = torch.tensor([data.prefix + suffix])
                a, target = inputs_and_target(dense, sliced, index, layer, ids)
                gram += scale * a[first:].T @ a[first:]
                cross += scale * a[first:].T @ target[first:]
        penalty = torch.diag(RIDGE * gram.diagonal())
        solved = torch.linalg.solve(gram + penalty, cross + penalty @ layer.down.weight.double().T)
        with torch.no_grad():
            layer.down.weight.copy_(solved.T)


def inputs_and_target(dense, sliced, index, layer, ids):
    seen = {}
    handles = [
        blocks(dense)[index].register_forward_hook(lambda _m, _a, out: seen.__setitem__("y", out)),
        blocks(sliced)[index].register_forward_hook(
            lambda _m, _a, out: seen.__setitem__("out", out)
        ),
        layer.down.register_forward_hook(lambda _m, args, out: seen.update(a=args[0], down=out)),
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
    return a, target


@pytest.mark.parametrize("family", FAMILIES)
def test_the_refit_equals_a_plain_one(family, tmp_path):
    dense = tiny_model(family)
    persona = tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=500)
    generic = [Example.of(None, f"Why {n}?", f"Because {n}.") for n in range(5)]
    sets = [(persona, 0.7), (tokenize(tiny_tokenizer(), generic, max_tokens=500), 0.3)]
    expected, _ = sliced_model(dense)
    actual, _ = sliced_model(dense)
    plain_refit(dense, expected, sets)
    refit(dense, actual, sets, ridge=RIDGE, scratch=tmp_path)
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
    refit(dense, sliced, [(train, 1.0)], ridge=RIDGE, scratch=tmp_path)
    assert mean_answer_loss(sliced, held_out, "KL") < 0.8 * before
    assert all(torch.equal(p, untouched[n]) for n, p in dense.named_parameters())
    assert not list(tmp_path.iterdir()), "the streams are removed"


def test_without_pruned_channels_the_refit_changes_nothing(tmp_path):
    dense = tiny_model()
    same = copy.deepcopy(dense)
    data = tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=500)
    refit(dense, same, [(data, 1.0)], ridge=RIDGE, scratch=tmp_path)
    for one, other in zip(ffn_layers(same), ffn_layers(dense), strict=True):
        assert torch.allclose(one.down.weight, other.down.weight, atol=1e-4)


def test_every_ridge_has_its_own_solution_and_the_streams_follow_the_middle_one(tmp_path):
    dense = tiny_model()
    data = tokenize(tiny_tokenizer(), EXAMPLES, max_tokens=500)
    (several, _), (middle, _) = sliced_model(dense), sliced_model(dense)
    found = []
    for step in walk(dense, several, [WeightedSet(data, 1.0)], [], scratch=tmp_path, weights={}):
        found.append(refit_block(step, (0.01, RIDGE, 10.0)))
    refit(dense, middle, [(data, 1.0)], ridge=RIDGE, scratch=tmp_path)
    for solutions, one, other in zip(found, ffn_layers(several), ffn_layers(middle), strict=True):
        assert torch.equal(one.down.weight, other.down.weight)
        assert torch.equal(solutions[RIDGE], one.down.weight)
    for ridge in (0.01, 10.0):
        (alone, _) = sliced_model(dense)
        refit(dense, alone, [(data, 1.0)], ridge=ridge, scratch=tmp_path)
        assert torch.equal(found[0][ridge], ffn_layers(alone)[0].down.weight)
