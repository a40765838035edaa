"""The reconstruction of single blocks, against a plain computation of its error."""

import copy

import pytest
import torch

from persona_jobs.models.families import blocks, ffn_layers
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.reconstruct import reconstruct_block
from persona_jobs.recovery.walk import walk
from persona_jobs.training.trainer import NoControl
from support.recovery import recovery_data
from support.tiny import FAMILIES, tiny_model
from support.training import training_config

CONFIG = training_config(24, batch_size=64, learning_rate=0.01, evaluate_every=4, warmup=1)


@pytest.fixture(scope="module")
def data():
    return recovery_data(persona=(7, 4), generic=(6, 4))


def slice_of(dense):
    sliced = copy.deepcopy(dense)
    scores = torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    slice_model(sliced, top_k_mask(scores, 40))
    return sliced


def output_of(model, layer, ids):
    """A block's output on whole sequences, by the library's own forward pass."""
    seen = {}

    def keep(_module, _inputs, output):
        seen["output"] = output if isinstance(output, torch.Tensor) else output[0]

    handle = blocks(model)[layer].register_forward_hook(keep)
    with torch.no_grad():
        model(ids)
    handle.remove()
    return seen["output"][0]


def relative_error(dense, sliced, layer, sets):
    """The weighted mean of |difference|^2 / |dense output|^2; a shared prompt counts once."""
    total = 0.0
    for weighted in sets:
        data, errors = weighted.tokens, []
        for row, suffix in enumerate(data.suffixes):
            ids = torch.tensor([data.prefix + suffix])
            wanted = output_of(dense, layer, ids)
            difference = output_of(sliced, layer, ids) - wanted
            error = difference.square().sum(-1) / wanted.square().sum(-1)
            errors.append(error[0 if row == 0 else len(data.prefix) :])
        total += weighted.weight * float(torch.cat(errors).mean())
    return total


def snapshot(model, weights=()):
    """A copy of the model with the library's attention, and with weights put in."""
    copied = copy.deepcopy(model)
    copied.config._attn_implementation = "eager"
    for name in weights:
        copied.get_parameter(name).data.copy_(weights[name])
    return copied


def steps_of(dense, sliced, data, scratch):
    return walk(dense, sliced, data.train_sets(), data.held_out_sets(), scratch=scratch, weights={})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_comes_closer_to_the_dense_one_on_held_out_tokens(family, data, tmp_path):
    dense = tiny_model(family)
    sliced = slice_of(dense)
    before, after = [], []
    for step in steps_of(dense, sliced, data, tmp_path):
        before.append(snapshot(sliced))
        assert reconstruct_block(step, CONFIG, NoControl()) > 0
        after.append(snapshot(sliced, step.parameters))
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        errors = [relative_error(dense, m, layer, data.held_out_sets()) for m in (old, new)]
        assert errors[1] < errors[0]
    assert not list(tmp_path.iterdir())


def test_the_held_out_error_is_that_of_the_whole_block(data, tmp_path):
    dense = tiny_model("gemma2") if "gemma2" in FAMILIES else tiny_model()
    sliced = slice_of(dense)
    seen = []

    class Watch(NoControl):
        save_due = True

        def save_state(self, write):
            write(tmp_path)
            seen.append((tmp_path / "state.json").read_text())

    steps = steps_of(dense, sliced, data, tmp_path)
    reconstruct_block(next(steps), CONFIG, Watch())
    steps.close()
    expected = relative_error(dense, slice_of(dense), 0, data.held_out_sets())
    first = float(seen[0].split('"validation_loss": ')[1].split(",")[0].rstrip("}"))
    assert first == pytest.approx(expected, rel=1e-4)


def test_a_block_that_only_gets_worse_keeps_its_weights(data, tmp_path):
    dense = tiny_model()
    sliced = slice_of(dense)
    step = next(iter(steps_of(dense, sliced, data, tmp_path)))
    before = {name: weight.clone() for name, weight in step.parameters.items()}
    config = training_config(4, batch_size=64, learning_rate=50.0, evaluate_every=1)
    assert reconstruct_block(step, config, NoControl()) == 0
    for name, weight in step.parameters.items():
        assert torch.equal(weight, before[name])


def test_the_result_is_the_same_every_time(data, tmp_path):
    dense = tiny_model()
    found = []
    for _ in range(2):
        step = next(iter(steps_of(dense, slice_of(dense), data, tmp_path)))
        reconstruct_block(step, CONFIG, NoControl())
        found.append({name: weight.clone() for name, weight in step.parameters.items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert len(found[0]) == len(list(ffn_layers(dense)[0].mlp.parameters()))
