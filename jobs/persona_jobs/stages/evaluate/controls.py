"""Answers that are known to be worse than the dense model's: a judge must tell them apart."""

from collections.abc import Sequence
from typing import Any

import torch

from ...evaluation.persona_score import Prompt
from ...evaluation.questions import Question
from ...models.families import ffn_layers
from ...pipeline.context import StageContext
from .answers import sample_answers
from .parts import Control, PartStore

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
    controls: list[tuple[Control, list[list[int]], torch.Tensor | None]] = [
        ("otherPersonas", as_others, None),
        ("damagedModel", as_itself, damage),
    ]
    for name, prompts, masks in controls:
        answers = store.parts.controls.setdefault(name, [])
        title = f"answers to check judges: {name}"
        sample_answers(context, dense, tokenizer, prompts, answers, store, title=title, masks=masks)


def _damage(dense: Any, seed: int) -> torch.Tensor:
    """Return a random mask `[n_layers, d_ff]` of the share of channels that stays."""
    layers = ffn_layers(dense)
    shape = (len(layers), layers[0].intermediate_size)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn >= _DAMAGED_SHARE).float()
