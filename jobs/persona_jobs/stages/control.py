"""Progress, periodic checkpoints and interruption of a training loop within a stage."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..pipeline.context import StageContext
from ..training.trainer import Loop

SAVE_SECONDS = 120.0


class StageControl:
    """Draws the stage's progress and keeps its checkpoints in the store.

    A checkpoint is saved every two minutes and when a stop is requested.
    """

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._saved = time.monotonic()

    def step_done(self) -> None:
        """Advance the progress by one step."""
        self._context.progress.advance()

    @property
    def save_due(self) -> bool:
        """Whether two minutes have passed or a stop is requested."""
        return self._context.stop.requested or time.monotonic() - self._saved >= SAVE_SECONDS

    def checkpoint(self, write: Callable[[Path], None]) -> None:
        """Save the state.

        Raises:
            StageInterruptedError: a stop was requested; the state is saved.
        """
        with tempfile.TemporaryDirectory(dir=self._context.scratch) as directory:
            write(Path(directory))
            self._context.save_state(Path(directory))
        self._saved = time.monotonic()
        self._context.stop.check()


def resume(context: StageContext, loop: Loop) -> None:
    """Go on from the stage's newest checkpoint; one that doesn't fit is ignored and said so."""
    directory = context.load_state()
    if directory is None:
        return
    try:
        loop.read(directory)
    except (ValueError, OSError) as error:
        context.progress.note(f"the checkpoint can't be used ({error}): starting over")
        return
    context.progress.note(f"going on after step {loop.step} of {loop.settings.steps}")
