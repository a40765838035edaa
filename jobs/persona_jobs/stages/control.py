"""Progress, interruption and resume state of long work within a stage."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..pipeline.context import StageContext
from ..training.trainer import Trainer

SAVE_SECONDS = 120.0


class StageProgress:
    """The stage's progress; `advance` also stops the stage when that was requested."""

    def __init__(self, context: StageContext, prefix: str = "") -> None:
        self._context = context
        self._prefix = prefix

    def begin(self, what: str, total: int) -> None:
        """Start a part, its name after the prefix."""
        self._context.progress.begin(self._prefix + what, total)

    def advance(self, count: int = 1) -> None:
        """Report `count` more finished units.

        Raises:
            StageInterruptedError: a stop was requested.
        """
        self._context.advance(count)

    def note(self, message: str) -> None:
        """Pass the message on."""
        self._context.progress.note(message)


class StageControl:
    """A training run's control that keeps its resume state in the store.

    The state is saved every two minutes and when a stop is requested.
    """

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._saved = time.monotonic()

    def resume(self, trainer: Trainer) -> bool:
        """Load the newest saved state; one that doesn't fit is reported and ignored."""
        directory = self._context.load_state()
        if directory is None:
            return False
        try:
            trainer.load_state(directory)
        except (ValueError, OSError) as error:
            self._context.progress.note(f"starting over: the saved state can't be used ({error})")
            return False
        self._context.progress.note(f"resuming after step {trainer.step} of {trainer.config.steps}")
        return True

    def step_done(self) -> None:
        """Report one finished step; a stop waits until the state is saved."""
        self._context.progress.advance()

    @property
    def save_due(self) -> bool:
        """Whether two minutes have passed or a stop was requested."""
        return self._context.stop.requested or time.monotonic() - self._saved >= SAVE_SECONDS

    def save_state(self, write: Callable[[Path], None]) -> None:
        """Save the state in the store.

        Raises:
            StageInterruptedError: a stop was requested; the state is saved.
        """
        with tempfile.TemporaryDirectory(dir=self._context.scratch) as directory:
            write(Path(directory))
            self._context.save_state(Path(directory))
        self._saved = time.monotonic()
        self._context.stop.check()
