"""Group rows of similar length, so that little of a right-padded batch is padding."""

from collections.abc import Iterator, Sequence


def length_sorted_batches(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int = 1_000_000
) -> Iterator[list[int]]:
    """Indices of rows, shortest first, in batches of at most `max_tokens` padded tokens.

    A row longer than `max_tokens` gets a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        full = (len(batch) + 1) * lengths[index] > max_tokens or len(batch) >= max_rows
        if batch and full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
