"""Sampled answers, kept in groups: a stopped evaluation goes on with those that are left."""

from collections.abc import Sequence
from typing import Any

import torch

from ...models.generation import Generated, generate
from ...pipeline.context import StageContext
from .parts import PartStore

# Small models loop when they decode greedily, and a loop shows little of the persona.
ANSWER_TEMPERATURE = 0.7
# Questions answered together: a stopped evaluation loses at most the work on one group.
GROUP_SIZE = 64


def sample_answers(
    context: StageContext,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    answers: list[Generated],
    store: PartStore,
    *,
    title: str,
    masks: torch.Tensor | None = None,
) -> None:
    """Sample the answers that are left, with the same random numbers for every model.

    Args:
        context: the stage.
        model: the model that answers.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.
        answers: the answers so far, a list of `store`; the others are appended.
        store: keeps the answers after each group.
        title: what the progress shows.
        masks: masks of the model's FFN channels, as `generate` takes them.
    """
    if len(answers) == len(prompts):
        return
    context.progress.begin(title, len(prompts))
    context.progress.advance(len(answers))
    for start in range(len(answers), len(prompts), GROUP_SIZE):
        group = range(start, min(start + GROUP_SIZE, len(prompts)))
        answers += generate(
            model,
            tokenizer,
            [prompts[index] for index in group],
            max_new_tokens=context.spec.evaluation.max_answer_tokens,
            temperature=ANSWER_TEMPERATURE,
            seed=context.spec.seed,
            masks=masks,
            row_ids=group,
            on_answer=lambda *_: context.advance(),
        )
        store.part_done()
