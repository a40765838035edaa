"""Shared steps of the stages: find the base model and load it on the chosen device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from ..api.persona import Dialogue
from ..errors import InputError
from ..models import mask_file
from ..models.compute import Compute, resolve
from ..models.loading import load
from ..models.stopping import stop_between_blocks
from ..pipeline.context import StageContext
from ..pipeline.inputs import check_number_format
from ..pipeline.pins import sources
from ..sources import base_model, cards, evaluation_files
from ..sources.access import source_access
from ..sources.resolve import SourceResolver


def base_directory(context: StageContext) -> Path:
    """Return the local directory of the base model, fetched or converted on first use."""
    source = context.spec.base_model
    with unchanged(context, "baseModel"):
        return base_model.resolve(
            source.uri,
            hub_revision(source.uri, source.revision),
            cache_dir=context.cache,
            access=source_access("baseModel", source.endpoint, os.environ),
        )


@contextmanager
def unchanged(context: StageContext, name: str) -> Iterator[None]:
    """Make sure that a source holds what the content keys say, while it is read inside.

    Args:
        context: the stage.
        name: path of the source below `spec`, such as `baseModel`.

    Raises:
        InputError: the source has changed since it was resolved.
        StoreError: the source can't be reached now.
    """
    spec = context.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    source = next(item for item in sources(spec) if item.name == name)
    with SourceResolver(context.cache, os.environ).unchanged(source):
        yield


@dataclass(frozen=True)
class ChosenPersona:
    """The persona that the spec describes, by its text or by a character card.

    Attributes:
        text: its system prompt.
        examples: conversations with it.
        notes: what of the card is not used, a sentence each without its full stop.
    """

    text: str
    examples: tuple[Dialogue, ...]
    notes: tuple[str, ...] = ()


def chosen_persona(context: StageContext) -> ChosenPersona:
    """Return the persona; a character card is read from its source.

    Raises:
        InputError: the spec names a ConfigMap that was not read, or the card has changed since it
            was resolved.
        CardError: the card is malformed, too large, or holds what no persona may hold.
        StoreError: the card's source can't be reached now.
    """
    given = context.spec.persona
    if given.card is None:
        if given.text is None:
            raise InputError(
                "The persona's text is missing: its ConfigMap was not read",
                hint="Resolve the spec before running a stage",
                subject="spec.persona.configMapRef",
            )
        return ChosenPersona(given.text, tuple(given.examples))
    with unchanged(context, "persona.card"):
        card = cards.of_spec(given.card, context.cache)
    return ChosenPersona(card.text, (*given.examples, *card.examples), card.notes)


def stored_dtype(directory: Path) -> torch.dtype:
    """Return the number format of a checkpoint's weights, from its safetensors headers."""
    from safetensors import safe_open

    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- safe_open has no __iter__
                kind = file.get_slice(name).get_dtype()
                if kind in names:
                    return names[kind]
    return torch.float32


def hub_revision(uri: str, revision: str | None) -> str | None:
    """Return the revision to ask the Hub for; for other sources it only labels the content."""
    return revision if uri.startswith("hf://") else None


def chosen_compute(context: StageContext) -> Compute:
    """Return the device and number format that spec and hardware ask for.

    Raises:
        InputError: a stage whose result is read computed in another number format, or the spec
            asks for a GPU and there is none.
    """
    compute = resolve(context.spec.compute.device, context.spec.compute.dtype)
    check_number_format(context.input_manifests(), compute.dtype_name)
    return compute


def load_base(context: StageContext) -> tuple[Any, Any, Compute]:
    """Return the frozen base model, its tokenizer, and where it runs.

    A requested stop ends its forward passes between two blocks.
    """
    compute = chosen_compute(context)
    model, tokenizer = load(base_directory(context), compute)
    stop_between_blocks(model, context.stop.check)
    return model, tokenizer, compute


def load_mask(context: StageContext, model: Any) -> mask_file.Mask:
    """Return the mask stage's mask.

    Raises:
        InputError: it doesn't belong to the base model.
        CorruptArtifactError: the file is damaged.
    """
    mask = mask_file.load(context.input_file("mask", "mask.safetensors"))
    source = context.spec.base_model
    mask_file.check_base(mask, source.uri, source.revision)
    mask_file.check_fits(mask, model)
    return mask


def environment(compute: Compute) -> dict[str, JsonValue]:
    """Return what the stage's manifest records of the machine."""
    return {
        "device": str(compute.device),
        "dtype": compute.dtype_name,
        "dtypeReason": compute.reason,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }


def file_questions(context: StageContext) -> list[str]:
    """Return the questions of all question files; they never enter training data."""
    return [question for questions in question_files(context).values() for question in questions]


def question_files(context: StageContext) -> dict[str, tuple[str, ...]]:
    """Return the questions of each question file by its URI."""
    return {uri: loaded.questions for uri, loaded in evaluation_sets(context).items()}


def evaluation_sets(context: StageContext) -> dict[str, evaluation_files.EvaluationSet]:
    """Return each question file by its URI."""
    found = {}
    for index, file in enumerate(context.spec.evaluation.question_files):
        name = f"evaluation.questionFiles[{index}]"
        access = source_access(name, file.endpoint, os.environ)
        with unchanged(context, name):
            found[file.uri] = evaluation_files.load(
                file.uri, cache_dir=context.cache, access=access
            )
    return found
