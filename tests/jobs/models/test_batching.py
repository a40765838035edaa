import random

import pytest

from persona_jobs.models.batching import ENOUGH_TOKENS, MAX_PADDING, length_sorted_batches


def padding(lengths, batch):
    padded = len(batch) * max(lengths[row] for row in batch)
    return padded - sum(lengths[row] for row in batch), padded


def test_every_row_is_in_one_batch_shortest_first():
    lengths = [5, 1, 9, 3, 3, 700]
    batches = list(length_sorted_batches(lengths, max_tokens=20))
    assert batches == [[1, 3, 4, 0], [2], [5]]


def test_one_long_row_does_not_pad_all_others():
    lengths = [16] * 30 + [200]
    assert list(length_sorted_batches(lengths, max_tokens=100_000)) == [list(range(30)), [30]]


@pytest.mark.parametrize("seed", range(20))
def test_a_large_batch_is_hardly_padded(seed):
    generator = random.Random(seed)
    lengths = [generator.randint(1, 300) for _ in range(generator.randint(1, 400))]
    batches = list(length_sorted_batches(lengths, max_tokens=2048))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        wasted, padded = padding(lengths, batch)
        assert padded <= 2048
        without_last = sum(lengths[row] for row in batch[:-1])
        assert wasted <= MAX_PADDING * padded or without_last < ENOUGH_TOKENS


def test_nothing_gives_no_batch():
    assert list(length_sorted_batches([], max_tokens=10)) == []
