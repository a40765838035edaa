"""Batches of rows of similar length, so that little of a right-padded batch is padding."""

from collections.abc import Iterator, Sequence

# Padded tokens in one forward pass without gradients: enough to keep the processor busy, few
# enough that the attention scores of a long batch fit into memory.
MAX_BATCH_TOKENS = 2048
# A batch of this size is nearly as fast per token as a larger one; it then ends rather than pad
# more than this share of its tokens.
ENOUGH_TOKENS = 128
MAX_PADDING = 1 / 32


def length_sorted_batches(lengths: Sequence[int], *, max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of rows, shortest first, in batches of at most `max_tokens` padded tokens.

    A row longer than `max_tokens` gets a batch of its own.
    """
    batch: list[int] = []
    tokens = 0  # of the batch, without padding
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        padded = (len(batch) + 1) * lengths[index]
        wasteful = (
            tokens >= ENOUGH_TOKENS and padded - tokens - lengths[index] > MAX_PADDING * padded
        )
        if batch and (padded > max_tokens or wasteful):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
