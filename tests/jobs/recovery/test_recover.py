"""The parts of the recovery together: what helps is kept, and a stopped run resumes."""

import copy
from dataclasses import replace

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.errors import InputError, StageInterruptedError
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from persona_jobs.pipeline.context import SilentProgress
from persona_jobs.recovery.fine_tune import FineTuneConfig
from persona_jobs.recovery.recover import RecoveryConfig, RefitConfig, recover
from persona_jobs.training.distillation import DistillationDataset
from persona_jobs.training.passes import mean_answer_loss, with_dense_hidden_states
from support.recovery import EMPTY, recovery_data, tokens
from support.tiny import FAMILIES, tiny_model
from support.training import ResumeFrom, StopAfter, training_config

REFIT = RefitConfig((0.1,))
STEPS = training_config(8, learning_rate=0.003, evaluate_every=2, patience=9, warmup=1)
TUNING = FineTuneConfig(STEPS, (0.003,), "Down", 1)
BLOCKS = training_config(12, batch_size=64, learning_rate=0.003, evaluate_every=4, warmup=1)
ALL_PARTS = RecoveryConfig(RefitConfig((0.01, 0.1, 1.0)), BLOCKS, TUNING)


@pytest.fixture(scope="module")
def data():
    return recovery_data()


def slice_of(dense):
    mask = top_k_mask(torch.rand(3, 64, generator=torch.Generator().manual_seed(1)), 40)
    sliced = copy.deepcopy(dense)
    slice_model(sliced, mask)
    return sliced


def measured(dense, model, data):
    """The weighted held-out divergence, computed from its definition."""
    kl = [
        mean_answer_loss(model, with_dense_hidden_states(dense, part.validation), "KL")
        for part in (data.persona, data.generic)
    ]
    return kl[0] * (1 - data.generic_percent / 100) + kl[1] * data.generic_percent / 100


def changed(model, other):
    return {n for n, p in model.named_parameters() if not torch.equal(p, other.get_parameter(n))}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_lowers_the_divergence(family, data, tmp_path):
    dense = tiny_model(family)
    sliced, refitted, tuned = (slice_of(dense) for _ in range(3))
    recover(dense, refitted, data, RecoveryConfig(REFIT, None, None), scratch=tmp_path)
    config = RecoveryConfig(REFIT, None, TUNING)
    result = recover(dense, tuned, data, config, scratch=tmp_path)
    assert [part.name for part in result.parts if part.kept] == ["refit", "fineTune"]
    refit, fine_tune = result.parts
    steps = (refit.before, refit.after, fine_tune.before, fine_tune.after)
    models = (sliced, refitted, refitted, tuned)
    for step, model in zip(steps, models, strict=True):
        assert step.weighted == pytest.approx(measured(dense, model, data), rel=1e-4)
    assert refit.before.weighted > refit.after.weighted > fine_tune.after.weighted
    assert (result.start, result.end) == (refit.before, fine_tune.after)
    assert result.curve[0].validation_loss == pytest.approx(refit.after.weighted, rel=1e-4)
    downs = {n for n, _ in sliced.named_parameters() if n.endswith("down_proj.weight")}
    assert changed(tuned, sliced) == downs == set(result.weights)
    for name, weight in result.weights.items():
        assert torch.equal(weight, tuned.get_parameter(name))
    assert not any(p.requires_grad for p in tuned.parameters())


def wrong_answers(count):
    """Examples to learn from that have nothing to do with the held-out ones."""
    return tokens([Example.of("%%%", "~" * (9 + n), "^" * 30) for n in range(count)])


def test_parts_that_do_not_help_are_left_out_and_reported(data, tmp_path):
    dense = tiny_model()
    narrow = replace(
        data,
        persona=replace(data.persona, train=wrong_answers(2)),
        generic=replace(data.generic, train=wrong_answers(2)),
    )
    diverging = replace(TUNING, learning_rates=(1.0,))
    sliced, expected = slice_of(dense), slice_of(dense)
    wild = replace(BLOCKS, learning_rate=50.0, evaluate_every=1)
    config = RecoveryConfig(RefitConfig((1e-6,)), wild, diverging)
    result = recover(dense, sliced, narrow, config, scratch=tmp_path)
    assert [(part.name, part.kept) for part in result.parts] == [
        ("refit", False),
        ("reconstruct", False),
        ("fineTune", False),
    ]
    assert result.parts[0].after.weighted > result.parts[0].before.weighted
    assert result.end == result.start
    assert result.weights == {}
    assert changed(sliced, expected) == set()


def test_the_ridge_with_the_lowest_divergence_on_held_out_data_is_taken(data, tmp_path):
    dense = tiny_model()
    sliced = slice_of(dense)
    config = RecoveryConfig(RefitConfig((0.001, 0.1, 1000.0)), None, None)
    result = recover(dense, sliced, data, config, scratch=tmp_path)
    settings = result.parts[0].settings
    assert list(settings["tried"]) == ["0.001", "0.1", "1000.0"]
    lowest = min(settings["tried"].values())
    assert settings["tried"][settings["ridge"]] == lowest
    assert result.end.weighted == pytest.approx(lowest, abs=1e-4)
    assert measured(dense, sliced, data) == pytest.approx(lowest, abs=1e-3)
    alone = slice_of(dense)
    middle = RecoveryConfig(RefitConfig((0.1,)), None, None)
    end = recover(dense, alone, data, middle, scratch=tmp_path).end.weighted
    assert settings["tried"]["0.1"] == pytest.approx(end, abs=1e-4)


def test_without_generic_examples_the_persona_alone_is_used_and_it_says_so(data, tmp_path):
    dense = tiny_model()
    alone = replace(data, generic=DistillationDataset(EMPTY, EMPTY))
    result = recover(
        dense, slice_of(dense), alone, RecoveryConfig(None, None, TUNING), scratch=tmp_path
    )
    assert result.end.generic is None
    assert result.end.weighted == result.end.persona < result.start.persona
    assert any("general instructions" in warning for warning in result.warnings)
    assert any("3 held-out answers of the persona" in warning for warning in result.warnings)


def test_enough_data_brings_no_warning(tmp_path):
    data = recovery_data(persona=(9, 8), generic=(9, 8))
    dense = tiny_model()
    config = RecoveryConfig(REFIT, None, None)
    assert recover(dense, slice_of(dense), data, config, scratch=tmp_path).warnings == []


def test_without_held_out_answers_nothing_is_recovered(data, tmp_path):
    blind = replace(data, persona=replace(data.persona, validation=EMPTY))
    dense = tiny_model()
    with pytest.raises(InputError, match="no held-out answers"):
        recover(dense, slice_of(dense), blind, ALL_PARTS, scratch=tmp_path)


class Parts(SilentProgress):
    def __init__(self):
        self.begun = []

    def begin(self, what, total):
        self.begun.append(what)


class StopAtBlock(StopAfter):
    """A control that stops after some blocks."""

    @property
    def save_due(self):
        self.left -= 1
        return self.left == 0


class StopWithin(Parts):
    """Progress that is interrupted at a moment at which no state was saved."""

    def __init__(self, what, units):
        super().__init__()
        self.what, self.left = what, units

    def advance(self, count=1):
        if self.begun[-1] == self.what:
            self.left -= count
            if self.left < 0:
                raise StageInterruptedError("stopped")


REFITTING = [
    "dense reference",
    "refitted layers",
    "ridges",
    "reconstructed blocks",
    "fine-tuning steps",
]
RECONSTRUCTING = ["dense reference", "reconstructed blocks", "fine-tuning steps"]
TUNING_ONLY = ["dense reference", "fine-tuning steps"]


@pytest.mark.parametrize(
    ("stop", "steps", "progress", "begun"),
    [
        (StopAtBlock, 2, Parts(), REFITTING),
        (StopAfter, 2, Parts(), TUNING_ONLY),
        (StopAfter, 99, StopWithin("refitted layers", 1), REFITTING),
        (StopAfter, 99, StopWithin("ridges", 1), REFITTING),
        (StopAfter, 99, StopWithin("reconstructed blocks", 1), RECONSTRUCTING),
    ],
    ids=["between-blocks", "between-steps", "refit", "ridges", "reconstruct"],
)
def test_a_resumed_recovery_ends_with_the_same_weights(
    data, tmp_path, stop, steps, progress, begun
):
    dense = tiny_model()
    whole = slice_of(dense)
    expected = recover(dense, whole, data, ALL_PARTS, scratch=tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    with pytest.raises(StageInterruptedError):
        recover(
            dense,
            slice_of(dense),
            data,
            ALL_PARTS,
            scratch=tmp_path,
            progress=progress,
            control=stop(steps, state),
        )
    resumed, progress = slice_of(dense), Parts()
    result = recover(
        dense,
        resumed,
        data,
        ALL_PARTS,
        scratch=tmp_path,
        progress=progress,
        control=ResumeFrom(state),
    )
    assert progress.begun == begun
    assert changed(resumed, whole) == set()
    assert result.curve == expected.curve
    without_time = [part.model_copy(update={"seconds": 0.0}) for part in result.parts]
    assert without_time == [p.model_copy(update={"seconds": 0.0}) for p in expected.parts]
