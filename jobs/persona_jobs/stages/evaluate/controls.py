"""Answers that are known to be worse than the dense model's: a judge must tell them apart."""

from collections.abc import Sequence
from typing import Any

import torch

from ...evaluation.persona_score import Prompt
from ...evaluation.questions import Question
from ...models.families import ffn_layers
from ...models.generation import generate
from ...pipeline.context import StageContext
from .parts import Control, PartStore
from .variants import ANSWER_TEMPERATURE, GROUP_SIZE

# Half of the channels at random: what is left still writes, but hardly any sense.
_DAMAGED_SHARE = 0.5


def answer_as_controls(
    context: StageContext,
    dense: Any,
    tokenizer: Any,
    prompt: Prompt,
    personas: Sequence[str],
    questions: Sequence[Question],
    store: PartStore,
) -> None:
    """Let the dense model answer as other personas, and damaged as the persona.

    The answers are kept with the other parts. Every question is asked as another reference
    persona, in turn; without reference personas there are no such answers. The target persona is
    the first of `personas`.
    """
    target, *references = personas
    as_others = [
        prompt(references[index % len(references)], question.query)
        for index, question in enumerate(questions)
        if references
    ]
    as_itself = [prompt(target, question.query) for question in questions]
    damage = _damage(dense, context.spec.seed)
    _answer(context, dense, tokenizer, "otherPersonas", as_others, None, store)
    _answer(context, dense, tokenizer, "damagedModel", as_itself, damage, store)


def _answer(
    context: StageContext,
    dense: Any,
    tokenizer: Any,
    name: Control,
    prompts: Sequence[list[int]],
    mask: torch.Tensor | None,
    store: PartStore,
) -> None:
    answers = store.parts.controls.setdefault(name, [])
    if len(answers) == len(prompts):
        return
    context.progress.begin(f"answers to check judges: {name}", len(prompts))
    context.progress.advance(len(answers))
    for start in range(len(answers), len(prompts), GROUP_SIZE):
        group = range(start, min(start + GROUP_SIZE, len(prompts)))
        answers += generate(
            dense,
            tokenizer,
            [prompts[index] for index in group],
            max_new_tokens=context.spec.evaluation.max_answer_tokens,
            temperature=ANSWER_TEMPERATURE,
            seed=context.spec.seed,
            masks=mask,
            row_ids=group,
            on_answer=lambda *_: context.advance(),
        )
        store.part_done()


def _damage(dense: Any, seed: int) -> torch.Tensor:
    """Return a random mask `[n_layers, d_ff]` of the share of channels that stays."""
    layers = ffn_layers(dense)
    shape = (len(layers), layers[0].intermediate_size)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn >= _DAMAGED_SHARE).float()
