"""Slices for several personas: whose data they are made from, and how it is weighed."""

import pytest
from benchmarks.quality.data import Texts
from benchmarks.quality.pools import PooledData, pooled, slices, train_answers

from persona_jobs.api import PersonaModelSpec
from persona_jobs.dataset import Example
from persona_jobs.recovery.data import held_out_kl
from persona_jobs.training.passes import mean_answer_loss
from support.recovery import PERSONA, recovery_data
from support.tiny import tiny_model, tiny_tokenizer

GENERIC = recovery_data((4, 4), (4, 4), 25).generic
SPEC = PersonaModelSpec.model_validate(
    {"persona": {"text": "A sailor."}, "baseModel": {"uri": "file:///base"}}
)


def test_each_persona_has_the_same_weight_and_general_data_its_share():
    one, two = (recovery_data((n, 4), (4, 4), 25).persona for n in (12, 4))
    data = PooledData(one, GENERIC, 25, (two,))
    assert [(part.kind, part.weight) for part in data.parts()] == [
        ("persona", 0.375),
        ("persona", 0.375),
        ("generic", 0.25),
    ]


def test_held_out_divergence_counts_every_persona():
    dense, model = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    one, two = (recovery_data((4, n), (4, 4), 25).persona for n in (3, 5))
    data = PooledData(one, GENERIC, 25, (two,)).with_dense_hidden_states(
        dense, train=False, on_rows=lambda _rows: None
    )
    losses = [mean_answer_loss(model, part.data.validation, "KL") for part in data.parts()]
    measured = held_out_kl(model, data)
    assert losses[0] != losses[1]
    assert measured.persona == pytest.approx((losses[0] + losses[1]) / 2)
    assert measured.generic == pytest.approx(losses[2])
    assert measured.weighted == pytest.approx(
        0.375 * losses[0] + 0.375 * losses[1] + 0.25 * losses[2]
    )


def texts(queries, tests):
    def answers(asked):
        return [Example.of(PERSONA, query, "Aye.") for query in asked]

    splits = {"train": answers(queries), "validation": answers(["v"]), "test": answers(tests)}
    return Texts(SPEC, splits, splits, [], ["in a file"])


def test_a_slice_is_made_from_nothing_that_it_is_measured_on():
    by_name = {
        "a": texts(["one", "two", "three"], ["four"]),
        "b": texts(["Four!", "five", "In a file?", "six"], ["one"]),
        "c": texts(["seven"], ["eight"]),
    }
    tokenizer = tiny_tokenizer()
    made = {one.name: train_answers(pooled(one, tokenizer, by_name)) for one in slices("abc")}
    assert made == {
        "all": 2 + 2 + 1,
        "others-a": 2 + 1,
        "others-equal-data-a": 2 + 1,
        "others-b": 2 + 1,
        "others-equal-data-b": 2 + 1,
        "others-c": 3 + 3,
        "others-equal-data-c": 1 + 1,
    }
