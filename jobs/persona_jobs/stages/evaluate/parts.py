"""The finished parts of an evaluation, kept in the store so that a second start takes them over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ...evaluation.losses import HeldOutLoss
from ...models.generation import Generated
from ...pipeline.context import StageContext
from ...pipeline.results import Variant
from ..control import PartSaver

PARTS_FILE = "parts.json"


class FinishedParts(BaseModel):
    """What is measured so far.

    Attributes:
        sizes: (parameters, bytes of the stored weights) of the variants.
        answers: answers to the first questions, by variant.
        persona_losses: losses on the persona's held-out answers.
        generic_losses: losses on held-out general instructions.
        mask_difference: difference between masked and sliced model, None until it is measured.
        loglikelihoods: those of all distinct answers, by number of the persona.
    """

    sizes: dict[Variant, tuple[int, int]] = {}
    answers: dict[Variant, list[Generated]] = {}
    persona_losses: dict[Variant, HeldOutLoss] = {}
    generic_losses: dict[Variant, HeldOutLoss] = {}
    mask_difference: float | None = None
    loglikelihoods: dict[int, list[float]] = {}


class PartStore:
    """Loads the finished parts and saves them as they grow.

    Args:
        context: the stage's context.

    Attributes:
        parts: what is measured so far.
    """

    def __init__(self, context: StageContext) -> None:
        self.parts = _loaded(context)
        self._saver = PartSaver(context, self._write)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Save what is finished when the body is interrupted.

        Raises:
            StageInterruptedError: a stop was requested.
        """
        with self._saver.working():
            yield

    def part_done(self) -> None:
        """Take note that one more part is finished."""
        self._saver.part_done()

    def _write(self, directory: Path) -> None:
        (directory / PARTS_FILE).write_text(self.parts.model_dump_json(), encoding="utf-8")


def _loaded(context: StageContext) -> FinishedParts:
    directory = context.load_state()
    if directory is None:
        return FinishedParts()
    try:
        parts = FinishedParts.model_validate_json((directory / PARTS_FILE).read_text("utf-8"))
    except (ValidationError, OSError) as error:
        context.progress.note(f"starting over: the saved parts can't be used ({error})")
        return FinishedParts()
    count = sum(len(answers) for answers in parts.answers.values())
    context.progress.note(
        f"resuming with {count} answers and the scores of {len(parts.loglikelihoods)} personas"
    )
    return parts
