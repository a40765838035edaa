"""Progress, interruption and resume state of long work within a stage."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StageInterruptedError
from ..pipeline.context import StageContext
from ..training.trainer import Resumable

SAVE_SECONDS = 120.0
# Saving takes at most this share of the time.
SAVE_SHARE = 0.05


class SaveTimer:
    """Decides when unfinished work is saved: rarely where that takes long.

    Args:
        seconds: shortest time between two states.
    """

    def __init__(self, seconds: float = SAVE_SECONDS) -> None:
        self._shortest = seconds
        self._interval = seconds
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._saved >= self._interval

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long saving takes."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._saved = time.monotonic()
            self._interval = max(self._shortest, (self._saved - started) * (1 / SAVE_SHARE - 1))


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


class PartSaver:
    """Saves the finished parts of a stage's work in the store.

    They are saved every two minutes, less often where saving takes long, and when a stop is
    requested.

    Args:
        context: the stage's context.
        write: writes a state into a directory.
        keep_all: whether each state holds only the parts that no earlier one holds.
    """

    def __init__(
        self, context: StageContext, write: Callable[[Path], None], *, keep_all: bool = False
    ) -> None:
        self._context = context
        self._write = write
        self._keep_all = keep_all
        self._timer = SaveTimer()
        self._unsaved = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Save what is finished when the body is interrupted.

        Raises:
            StageInterruptedError: a stop was requested.
        """
        try:
            yield
        except StageInterruptedError:
            if self._unsaved:
                self._save()
            raise

    def part_done(self) -> None:
        """Take note that one more part is finished."""
        self._unsaved = True
        if self._timer.due:
            self._save()

    def _save(self) -> None:
        context = self._context
        with (
            self._timer.saving(),
            context.stop.while_saving(),
            tempfile.TemporaryDirectory(dir=context.scratch) as directory,
        ):
            self._write(Path(directory))
            context.save_state(Path(directory), keep_all=self._keep_all)
        self._unsaved = False


class StageControl:
    """A control of long work that keeps its resume state in the store.

    The state is saved every two minutes, less often where saving takes long, and when a stop is
    requested.

    Args:
        context: the stage's context.
        series: name of these states, where the stage has others.
    """

    def __init__(self, context: StageContext, series: str = "") -> None:
        self._context = context
        self._series = series
        self._timer = SaveTimer()

    def resume(self, run: Resumable) -> bool:
        """Load the newest saved state; one that doesn't fit is reported and ignored."""
        directory = self._context.load_state(series=self._series)
        if directory is None:
            return False
        try:
            run.load_state(directory)
        except (ValueError, OSError) as error:
            self._context.progress.note(f"starting over: the saved state can't be used ({error})")
            return False
        self._context.progress.note(f"resuming after {run.position}")
        return True

    def step_done(self) -> None:
        """Report one finished step; a stop waits until the state is saved."""
        self._context.progress.advance()

    @property
    def save_due(self) -> bool:
        """Whether it is time for the next state, or a stop was requested."""
        return self._context.stop.requested or self._timer.due

    def save_state(self, write: Callable[[Path], None]) -> None:
        """Save the state in the store.

        Raises:
            StageInterruptedError: a stop was requested; the state is saved.
        """
        context = self._context
        with (
            self._timer.saving(),
            context.stop.while_saving(),
            tempfile.TemporaryDirectory(dir=context.scratch) as directory,
        ):
            write(Path(directory))
            context.save_state(Path(directory), series=self._series)
        self._context.stop.check()
