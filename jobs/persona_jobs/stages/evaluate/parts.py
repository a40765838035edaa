"""The finished parts of an evaluation, kept in the store so that a second start takes them over."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import BaseModel, ValidationError

from ...evaluation.losses import HeldOutLoss
from ...models.generation import Generated
from ...pipeline.context import StageContext
from ...pipeline.graph import MEASUREMENTS, measurements_key
from ...pipeline.results import Variant
from ..control import PartSaver

PARTS_FILE = "parts.json"
Control = Literal["otherPersonas", "damagedModel"]


class FinishedParts(BaseModel):
    """What is measured so far.

    Attributes:
        key: what they depend on, see `pipeline.graph.measurements_key`.
        sizes: (parameters, bytes of the stored weights) of the variants.
        answers: answers to the first questions, by variant.
        persona_losses: losses on the persona's held-out answers.
        generic_losses: losses on held-out general instructions.
        mask_difference: difference between masked and sliced model, None until it is measured.
        controls: answers that check judges: the dense model's as other personas, and those of
            the damaged model.
        baseline_mask: a text of 0 and 1 per layer: which channels the baseline keeps; None until it
            is measured.
        by_persona: log-likelihoods of all distinct answers, by number of the persona and segment.
        other_questions: log-likelihoods of all distinct answers under other questions.
    """

    key: str = ""
    sizes: dict[Variant, tuple[int, int]] = {}
    answers: dict[Variant, list[Generated]] = {}
    persona_losses: dict[Variant, HeldOutLoss] = {}
    generic_losses: dict[Variant, HeldOutLoss] = {}
    mask_difference: float | None = None
    controls: dict[Control, list[Generated]] = {}
    baseline_mask: list[str] | None = None
    by_persona: dict[int, list[list[float]]] = {}
    other_questions: list[list[float]] = []


class PartStore:
    """Loads the finished parts and saves them as they grow.

    Args:
        context: the stage's context.

    Attributes:
        parts: what is measured so far.
    """

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self.parts = _loaded(context)
        self._kept = self._document()
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

    def keep(self) -> None:
        """Keep the parts beyond the end of the stage: other judges need no other answers.

        Raises:
            StoreError: the store refuses them.
        """
        context = self._context
        if self._document() == self._kept:
            return
        with context.stop.while_saving(), TemporaryDirectory(dir=context.scratch) as directory:
            self._write(Path(directory))
            key = context.planned.inputs["slice"]
            context.artifacts.save_state(MEASUREMENTS, key, Path(directory))

    def _document(self) -> str:
        return self.parts.model_dump_json()

    def _write(self, directory: Path) -> None:
        (directory / PARTS_FILE).write_text(self._document(), encoding="utf-8")


def _loaded(context: StageContext) -> FinishedParts:
    """Return the parts of this evaluation, or of one that differs in its judges only."""
    key = measurements_key(context.planned)
    kept = partial(context.artifacts.load_state, MEASUREMENTS, context.planned.inputs["slice"])
    for find in (context.load_state, kept):
        directory = find()
        if directory is None:
            continue
        try:
            parts = FinishedParts.model_validate_json((directory / PARTS_FILE).read_text("utf-8"))
        except (ValidationError, OSError) as error:
            context.progress.note(f"starting over: the saved parts can't be used ({error})")
            continue
        if parts.key != key:
            continue
        count = sum(len(answers) for answers in parts.answers.values())
        context.progress.note(
            f"resuming with {count} answers and the scores of {len(parts.by_persona)} personas"
        )
        return parts
    return FinishedParts(key=key)
