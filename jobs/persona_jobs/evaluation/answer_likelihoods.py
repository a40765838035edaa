"""Log-likelihoods of answers under many prompts that begin alike.

The system prompt's keys and values are computed once, those of each question once after them, and
all answers that follow a question are read together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.prefix import PrefixCache, extend_prefix, run_prefix, split
from ..training.losses import chunks, logits
from ..training.passes import answer_hidden_states, labels_of
from ..training.tokens import TokenizedSet

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Continuations:
    """A prompt and answers that may follow it.

    Attributes:
        prompt: token ids before the answers, at least one.
        answers: token ids of each answer, none empty.
    """

    prompt: TokenIds
    answers: Sequence[TokenIds]


def _ignore(_: int) -> None:
    pass


@torch.no_grad()
def answer_loglikelihoods(
    model: nn.Module,
    groups: Sequence[Continuations],
    *,
    on_rows: Callable[[int], None] = _ignore,
) -> list[list[Tensor]]:
    """Return the log-likelihoods of the tokens of every group's answers, in nats.

    Each is a float32 vector of the answer's length, for any number format of the model. The tokens
    computed are those of the prompts' common start once, of each prompt's end once and of the
    answers.

    Args:
        model: a causal language model of a supported family.
        groups: prompts with their answers.
        on_rows: called with the number of finished answers after each batch.
    """
    if not groups:
        return []
    prompts = [group.prompt for group in groups]
    start, _ = split(prompts)
    shared = run_prefix(model, start)
    found = []
    for group in groups:
        prefix = extend_prefix(model, shared, group.prompt[len(start) : -1])
        found.append(_of_group(model, prefix, group, on_rows))
    return found


def _of_group(
    model: nn.Module,
    prefix: PrefixCache,
    group: Continuations,
    on_rows: Callable[[int], None],
) -> list[Tensor]:
    """Return the answers' token log-likelihoods; the prompt is cached but for its last token."""
    last = group.prompt[-1]
    data = TokenizedSet(
        prefix=list(group.prompt[:-1]),
        suffixes=[[last, *answer[:-1]] for answer in group.answers],
        positions=[list(range(len(answer))) for answer in group.answers],
        labels=[list(answer) for answer in group.answers],
    )
    found = [torch.empty(0)] * len(data)
    for rows in data.batches():
        output = answer_hidden_states(model, prefix, data, rows)
        labels = labels_of(data, rows, output.hidden_states.device)
        parts = []
        for part in chunks(len(labels)):
            values = logits(model, output.hidden_states[part])
            chosen = values.gather(1, labels[part].unsqueeze(1)).squeeze(1)
            parts.append(chosen - values.logsumexp(dim=1))
        by_answer = torch.split(torch.cat(parts).cpu(), output.counts)
        for row, tokens in zip(rows, by_answer, strict=True):
            found[row] = tokens
        on_rows(len(rows))
    return found
