"""Hidden states of the last prompt token under a persona, for many queries."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.batching import MAX_BATCH_TOKENS, length_sorted_batches
from ..models.chat import messages, render
from ..models.prefix import forward_suffixes, run_prefix, split

# Queries whose hidden states are computed together and saved as one part of the work.
CHUNK_QUERIES = 128


def chunks(queries: Sequence[str]) -> list[list[int]]:
    """Return the indices of the queries in chunks of similar length, the shortest first.

    They depend on nothing but the queries, so a resumed run computes the same batches.
    """
    order = sorted(range(len(queries)), key=lambda index: len(queries[index]))
    return [order[start : start + CHUNK_QUERIES] for start in range(0, len(order), CHUNK_QUERIES)]


def last_token_hidden_states(
    model: Any,
    tokenizer: Any,
    persona: str,
    queries: Sequence[str],
    *,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield block outputs at the last prompt token of every query, with `persona` as system prompt.

    The persona's prompt is a common prefix: it runs once and all queries read its keys and values.
    The language-model head never runs.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer, with a chat template.
        persona: the system prompt.
        queries: N user messages.
        on_rows: called with the number of queries of each finished batch.

    Yields:
        Indices into `queries` and hidden states `[len(indices), B, d]` in float32, where
        those of block b are transformers' `hidden_states[b + 1]` (the last ones after the final
        norm).
    """
    prompts = [render(tokenizer, messages(persona, query)) for query in queries]
    prefix_ids, suffixes = split(prompts)
    lengths = [len(suffix) for suffix in suffixes]
    with torch.inference_mode():
        prefix = run_prefix(model, prefix_ids)
        for rows in length_sorted_batches(lengths, max_tokens=MAX_BATCH_TOKENS):
            output = forward_suffixes(
                model,
                prefix,
                [suffixes[row] for row in rows],
                positions="last",
                block_outputs=True,
            )
            if output.block_outputs is None:
                raise RuntimeError("the forward pass returned no block outputs")
            yield rows, output.block_outputs.float().cpu()
            on_rows(len(rows))
