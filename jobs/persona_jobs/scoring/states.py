"""Hidden states of the last prompt token under a persona, for many queries."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.batching import length_sorted_batches
from ..models.chat import messages, render
from ..models.prefix import forward_rests, run_prefix, split

# Padded tokens in one forward pass: large enough to keep the processor busy, small enough for the
# attention scores of a long batch.
BATCH_TOKENS = 2048


def last_token_states(
    model: Any,
    tokenizer: Any,
    persona: str,
    queries: Sequence[str],
    *,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Block outputs at the last prompt token of every query, with `persona` as system prompt.

    The persona's prompt is a common prefix: it runs once and all queries read its keys and values.
    The language-model head never runs.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer, with a chat template.
        persona: the system prompt.
        queries: N user messages.
        on_rows: called with the number of queries of each finished batch.

    Yields:
        indices into `queries` and the states `[len(indices), B, hidden]` in float32, where
        block b's state is transformers' `hidden_states[b + 1]` (the last one after the final
        norm).
    """
    prompts = [render(tokenizer, messages(persona, query)) for query in queries]
    prefix_ids, rests = split(prompts)
    with torch.inference_mode():
        prefix = run_prefix(model, prefix_ids)
        for rows in length_sorted_batches([len(r) for r in rests], max_tokens=BATCH_TOKENS):
            output = forward_rests(
                model,
                prefix,
                [rests[row] for row in rows],
                positions="last",
                logits=False,
                block_states=True,
            )
            if output.block_states is None:
                raise RuntimeError("the forward pass returned no block states")
            yield rows, output.block_states.float().cpu()
            on_rows(len(rows))
