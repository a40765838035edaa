"""What a batch of the fine-tuning is made of, and which weights it changes."""

from dataclasses import replace

import pytest
import torch

from persona_jobs.api.training import FineTune, Recovery
from persona_jobs.errors import InputError, StageInterruptedError
from persona_jobs.models.families import blocks
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.fine_tune import FineTuneConfig, batch
from persona_jobs.recovery.recover import RecoveryConfig, RefitConfig, recover
from support.recovery import recovery_data
from support.tiny import FAMILIES, tiny_model
from support.training import ResumeFrom, StopAfter, training_config

STEPS = training_config(8, learning_rate=1.0, evaluate_every=2, patience=9, warmup=1)
# Rates at which each choice learns on the tiny models.
RATES = {"Down": 0.003, "FFN": 0.003, "All": 0.002, "LoRA": 0.01}


@pytest.mark.parametrize("generic_percent", [1, 25, 50, 60, 80, 90])
@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_every_share_gives_a_batch_of_both_kinds(batch_size, generic_percent):
    data = recovery_data(persona=(20, 2), generic=(20, 2), generic_percent=generic_percent)
    settings = FineTune.model_validate({"batchSize": batch_size})
    for step in range(5):
        persona, generic = batch(data, training_config(9, batch_size=settings.batch_size), step)
        assert len(persona.rows) + len(generic.rows) == batch_size
        assert min(len(persona.rows), len(generic.rows)) >= 1
        assert abs(len(generic.rows) - batch_size * generic_percent / 100) <= 1
        assert generic.weight == generic_percent / 100
        assert persona.weight + generic.weight == 1


def test_a_batch_that_cannot_hold_both_kinds_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Recovery.model_validate({"fineTune": {"batchSize": 1}})


def test_without_a_generic_share_a_batch_is_the_persona_alone():
    data = recovery_data(persona=(20, 2), generic=(20, 2), generic_percent=0)
    (persona,) = batch(data, training_config(9, batch_size=4), 0)
    assert (len(persona.rows), persona.weight) == (4, 1.0)


def slice_of(dense):
    """A slice that shares all weights but the pruned ones with the dense model."""
    scores = torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    return sliced_copy(dense, top_k_mask(scores, 40))


def tuning(choice, *rates):
    return RecoveryConfig(None, None, FineTuneConfig(STEPS, rates, choice, 4))


def expected_names(model, choice):
    """Names of the weights that may change."""
    inside = {name for block in blocks(model) for name in names_below(model, block)}
    matrices = {name for name in inside if model.get_parameter(name).dim() == 2}
    return {
        "Down": {name for name in matrices if name.endswith("down_proj.weight")},
        "FFN": {name for name in inside if ".mlp." in name},
        "All": {n for n, _ in model.named_parameters() if "embed" not in n and "lm_head" not in n},
        "LoRA": matrices,
    }[choice]


def names_below(model, block):
    inside = set(block.parameters())
    return [name for name, parameter in model.named_parameters() if parameter in inside]


@pytest.mark.parametrize("family", ["llama", FAMILIES[-1]])
@pytest.mark.parametrize("choice", RATES)
def test_each_choice_of_weights_is_trained_and_nothing_else(choice, family, tmp_path):
    data = recovery_data()
    dense = tiny_model(family)
    untouched = {name: p.clone() for name, p in dense.named_parameters()}
    sliced, before = slice_of(dense), slice_of(dense)
    config = tuning(choice, RATES[choice])
    result = recover(dense, sliced, data, config, scratch=tmp_path)
    assert result.parts[0].kept
    # The model with everything put back or merged computes what the best step computed.
    measured = [p.validation_loss for p in result.curve if p.validation_loss is not None]
    assert result.end.weighted == pytest.approx(min(measured), rel=1e-4)
    names = {name for name, _ in before.named_parameters()}
    assert {name for name, _ in sliced.named_parameters()} == names
    changed = {
        name
        for name in names
        if not torch.equal(sliced.get_parameter(name), before.get_parameter(name))
    }
    assert changed == set(result.weights) == expected_names(before, choice)
    for name, weight in result.weights.items():
        assert torch.allclose(weight, sliced.get_parameter(name), atol=1e-6)
    assert all(torch.equal(p, untouched[name]) for name, p in dense.named_parameters())
    assert not any(p.requires_grad for p in sliced.parameters())


def test_the_learning_rate_is_the_one_that_helps_most(tmp_path):
    dense = tiny_model()
    config = tuning("Down", 1e-7, 0.003, 3.0)
    result = recover(dense, slice_of(dense), recovery_data(), config, scratch=tmp_path)
    assert result.parts[0].settings["learningRate"] == "0.003"
    alone = recover(
        dense, slice_of(dense), recovery_data(), tuning("Down", 0.003), scratch=tmp_path
    )
    assert result.end == alone.end


def test_a_model_that_computes_no_numbers_is_refused(tmp_path):
    dense = tiny_model()
    sliced = slice_of(dense)
    with torch.no_grad():
        blocks(sliced)[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="nan"):
        recover(dense, sliced, recovery_data(), tuning("Down", 0.003, 0.01), scratch=tmp_path)


@pytest.mark.parametrize("choice", RATES)
def test_a_stopped_fine_tuning_resumes_to_the_same_weights(choice, tmp_path):
    data, dense = recovery_data(), tiny_model()
    config = replace(tuning(choice, 1e-4, RATES[choice]), refit=RefitConfig((0.1,)))
    whole = slice_of(dense)
    expected = recover(dense, whole, data, config, scratch=tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    with pytest.raises(StageInterruptedError):
        recover(dense, slice_of(dense), data, config, scratch=tmp_path, control=StopAfter(3, state))
    resumed = slice_of(dense)
    result = recover(dense, resumed, data, config, scratch=tmp_path, control=ResumeFrom(state))
    assert result.curve == expected.curve
    for name, parameter in whole.named_parameters():
        assert torch.equal(resumed.get_parameter(name), parameter)
