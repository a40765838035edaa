"""Learning rate, batches and early stopping."""

import pytest

from persona_jobs.training.schedule import EarlyStopping, batch_indices, cosine_learning_rate


def test_cosine_starts_at_the_peak_and_ends_near_zero():
    rates = [cosine_learning_rate(step, 10, 0.04) for step in range(10)]
    assert rates[0] == pytest.approx(0.04)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.002


def test_warmup_rises_to_the_peak():
    assert [cosine_learning_rate(step, 10, 1.0, warmup=3) for step in range(4)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0]
    )


def test_an_epoch_sees_every_example_once():
    seen = [index for step in range(4) for index in batch_indices(12, 3, step, seed=7)]
    assert sorted(seen) == list(range(12))


def test_batches_depend_on_seed_and_step_only():
    assert batch_indices(50, 8, 9, 1) == batch_indices(50, 8, 9, 1)
    assert batch_indices(50, 8, 9, 1) != batch_indices(50, 8, 9, 2)
    first_epoch = [batch_indices(16, 8, step, 1) for step in (0, 1)]
    second_epoch = [batch_indices(16, 8, step, 1) for step in (2, 3)]
    assert first_epoch != second_epoch


def test_few_examples_make_one_full_batch():
    assert sorted(batch_indices(3, 32, 5, 0)) == [0, 1, 2]


def test_early_stopping_waits_for_its_patience():
    stop = EarlyStopping(patience=2)
    assert [stop.update(loss, step) for step, loss in enumerate([3.0, 2.0, 2.5, 2.4])] == [
        True,
        True,
        False,
        False,
    ]
    assert stop.should_stop
    assert (stop.best_loss, stop.best_step) == (2.0, 1)
