"""Optimal brain surgeon over a model, against a plain implementation; interruption."""

import copy

import pytest
import torch

from persona_jobs.dataset import Example
from persona_jobs.errors import StageInterruptedError
from persona_jobs.mask_learning.activation_rms import activation_rms
from persona_jobs.mask_learning.channel_removal import LeastSquares, remove_channels
from persona_jobs.mask_learning.optimal_brain_surgeon import ROUNDS, OptimalBrainSurgeon
from persona_jobs.models.families import blocks, ffn_layers
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.models.stopping import stop_between_blocks
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.refit import refit_block
from persona_jobs.recovery.streams import WeightedSet
from persona_jobs.recovery.walk import walk
from persona_jobs.training.passes import mean_answer_loss, with_dense_hidden_states
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

PERSONA = "You are a captain."
QUERIES = [f"Question {n}: {'why ' * (n % 4)}so?" for n in range(8)]
EXAMPLES = [Example.of(PERSONA, q, f"Aye {q[::-1]}") for q in QUERIES]
GENERIC = [Example.of(None, f"Name {n} things.", "One and two.") for n in range(5)]
KEPT, RIDGE = 24, 0.3


def weighted_sets():
    tokenizer = tiny_tokenizer()
    return [
        WeightedSet(tokenize(tokenizer, EXAMPLES, max_tokens=500), 0.75),
        WeightedSet(tokenize(tokenizer, GENERIC, max_tokens=500), 0.25),
    ]


def plain_ranking(dense, sets):
    """The same with whole sequences, the library's forward passes and removed weights at zero."""
    pruned = copy.deepcopy(dense)
    kept = []
    for index in range(len(blocks(dense))):
        down = ffn_layers(pruned)[index].down
        size = down.in_features
        gram = torch.zeros(size, size, dtype=torch.float64)
        cross = torch.zeros(size, down.out_features, dtype=torch.float64)
        for weighted in sets:
            rows = [
                (suffix, len(weighted.tokens.prefix) if number else 0)
                for number, suffix in enumerate(weighted.tokens.suffixes)
            ]
            tokens = len(weighted.tokens.prefix) + weighted.tokens.tokens
            for suffix, first in rows:
                ids = torch.tensor([weighted.tokens.prefix + suffix])
                target = block_outputs(dense, index, ids)[first:]
                activation, output, block_output = with_down(pruned, index, ids)
                wanted = target - (block_output - output)[first:]
                if down.bias is not None:
                    wanted = wanted - down.bias
                share = weighted.weight / tokens
                gram += share * (activation[first:].T @ activation[first:]).double()
                cross += share * (activation[first:].T @ wanted).double()
        penalty = RIDGE * gram.diagonal()
        system = gram + torch.diag(penalty)
        target = cross + penalty.unsqueeze(1) * down.weight.double().T
        removal = remove_channels(LeastSquares(system, target), KEPT, rounds=ROUNDS)
        kept.append(removal.kept)
        weights = torch.zeros_like(down.weight)
        solved = torch.linalg.solve(system[removal.kept][:, removal.kept], target[removal.kept])
        weights[:, removal.kept] = solved.T.float()
        down.weight.data = weights
    return kept


def block_outputs(model, index, ids):
    seen = []
    handle = blocks(model)[index].register_forward_hook(
        lambda _m, _a, output: seen.append(output if torch.is_tensor(output) else output[0])
    )
    with torch.no_grad():
        model(ids)
    handle.remove()
    return seen[0][0]


def with_down(model, index, ids):
    seen = {}
    handle = ffn_layers(model)[index].down.register_forward_hook(
        lambda _m, args, output: seen.update(activation=args[0][0], output=output[0])
    )
    block_output = block_outputs(model, index, ids)
    handle.remove()
    return seen["activation"], seen["output"], block_output


# With a norm behind the FFN the targets are others; the refit's tests cover them.
PLAIN = [f for f in FAMILIES if not hasattr(blocks(tiny_model(f))[0], "post_feedforward_layernorm")]


@pytest.mark.parametrize("family", PLAIN)
def test_the_ranking_equals_a_plain_implementation(family, tmp_path):
    model, sets = tiny_model(family), weighted_sets()
    before = copy.deepcopy(model.state_dict())
    surgeon = OptimalBrainSurgeon(model, kept_channels=KEPT, ridge=RIDGE)
    mask = top_k_mask(surgeon.run(sets, scratch=tmp_path), KEPT)
    for row, kept in zip(mask, plain_ranking(model, sets), strict=True):
        assert row.nonzero().squeeze(1).tolist() == kept.tolist()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir()), "the streams' files are removed"


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_refit_it_beats_the_activation_norm_on_its_own_data(family, tmp_path):
    model, sets = tiny_model(family), weighted_sets()
    surgeon = OptimalBrainSurgeon(model, kept_channels=KEPT, ridge=RIDGE)
    by_method = {
        "surgeon": surgeon.run(sets, scratch=tmp_path),
        "norm": activation_rms(model, sets[0].tokens),
    }
    data = with_dense_hidden_states(model, sets[0].tokens)
    losses = {}
    for method, values in by_method.items():
        sliced = sliced_copy(model, top_k_mask(values, KEPT))
        for step in walk(model, sliced, sets, [], scratch=tmp_path, weights={}):
            refit_block(step, (RIDGE,))
        losses[method] = mean_answer_loss(sliced, data, "KL")
    assert losses["surgeon"] < losses["norm"]


class StopAfter:
    """A control that stops after some layers and keeps the state."""

    def __init__(self, directory, layers):
        self.directory, self.layers, self.done = directory, layers, 0

    def resume(self, run):
        run.load_state(self.directory)
        return True

    def step_done(self):
        self.done += 1

    @property
    def save_due(self):
        return self.done == self.layers

    def save_state(self, write):
        write(self.directory)
        raise StageInterruptedError("stopped")


@pytest.mark.parametrize("layers", [1, 2])
def test_an_interrupted_run_resumes_to_the_same_ranking(layers, tmp_path):
    model, sets = tiny_model("llama"), weighted_sets()
    (tmp_path / "state").mkdir()

    def surgeon():
        return OptimalBrainSurgeon(model, kept_channels=KEPT, ridge=RIDGE)

    whole = surgeon()
    whole.run(sets, scratch=tmp_path)
    control = StopAfter(tmp_path / "state", layers)
    with pytest.raises(StageInterruptedError):
        surgeon().run(sets, scratch=tmp_path, control=control)
    resumed = surgeon()
    control.resume(resumed)
    assert resumed.position == f"layer {layers} of 3"
    control.done = 3
    assert torch.equal(resumed.run(sets, scratch=tmp_path, control=control), whole.importance)
    assert resumed.exchanged == whole.exchanged


@pytest.mark.parametrize("done", [0.1, 1.1, 1.5, 2.9])
def test_a_stop_within_a_layer_loses_that_layer_only(done, tmp_path):
    """A requested stop ends a forward pass between two blocks, wherever the layer is."""
    sets, model = weighted_sets(), tiny_model("llama")
    (tmp_path / "state").mkdir()
    passes, stop_at = 0, None

    def check():
        nonlocal passes
        passes += 1
        if passes == stop_at:
            raise StageInterruptedError("stopped")

    stop_between_blocks(model, check)

    def surgeon():
        return OptimalBrainSurgeon(model, kept_channels=KEPT, ridge=RIDGE)

    expected = surgeon().run(sets, scratch=tmp_path)
    passes_per_layer = passes / 3
    passes, stop_at = 0, round(done * passes_per_layer)
    with pytest.raises(StageInterruptedError):
        surgeon().run(sets, scratch=tmp_path, control=StopAfter(tmp_path / "state", layers=99))
    resumed = surgeon()
    resumed.load_state(tmp_path / "state")
    assert resumed.layers_done == int(done)
    assert torch.equal(resumed.run(sets, scratch=tmp_path), expected)


def test_a_state_of_another_model_is_refused(tmp_path):
    control = StopAfter(tmp_path, 1)
    with pytest.raises(StageInterruptedError):
        OptimalBrainSurgeon(tiny_model("llama"), kept_channels=KEPT, ridge=RIDGE).run(
            weighted_sets(), scratch=tmp_path, control=control
        )
    other = OptimalBrainSurgeon(tiny_model("llama"), kept_channels=KEPT, ridge=RIDGE)
    other.importance = other.importance[:, :32]
    with pytest.raises(ValueError, match="doesn't fit the model"):
        other.load_state(tmp_path)
