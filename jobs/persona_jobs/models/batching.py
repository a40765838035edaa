"""Batches of rows of similar length, so that little of a right-padded batch is padding."""

from collections.abc import Iterator, Sequence

# Padded tokens in one forward pass without gradients: enough to keep the processor busy, few
# enough that the attention scores of a long batch fit into memory.
MAX_BATCH_TOKENS = 2048


def length_sorted_batches(lengths: Sequence[int], *, max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of rows, shortest first, in batches of at most `max_tokens` padded tokens.

    A row longer than `max_tokens` gets a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
