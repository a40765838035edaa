"""What a stage receives and what it reports."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from ..api import PersonaModelSpec
from ..errors import StageInterruptedError
from ..store import StageArtifacts, StageManifest
from .graph import PlannedStage


class Progress(Protocol):
    """Receives a stage's progress; the command line draws a bar, a Job writes log lines."""

    def begin(self, what: str, total: int) -> None:
        """Report that a part of the stage starts: `total` units of `what` are ahead."""

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""

    def note(self, message: str) -> None:
        """Show one line."""


class SilentProgress:
    """Ignores all progress."""

    def begin(self, what: str, total: int) -> None:
        """Ignore it."""

    def advance(self, count: int = 1) -> None:
        """Ignore it."""

    def note(self, message: str) -> None:
        """Ignore it."""


class StopFlag:
    """Set by SIGTERM or Ctrl-C; long stages look at it between two steps."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._saving = threading.Event()

    def request(self) -> None:
        """Ask the stage to stop at the next safe point."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    @property
    def saving(self) -> bool:
        """Whether a resume state is being written, which a forced end waits for."""
        return self._saving.is_set()

    @contextmanager
    def while_saving(self) -> Iterator[None]:
        """Mark the time in which a resume state is written."""
        self._saving.set()
        try:
            yield
        finally:
            self._saving.clear()

    def check(self) -> None:
        """Stop here if a stop was requested.

        Raises:
            StageInterruptedError: a stop was requested. Resumable stages save their state before
                they call this.
        """
        if self.requested:
            raise StageInterruptedError(
                "The stage was stopped on request", hint="Start it again to resume"
            )


@dataclass
class StageContext:
    """Everything a stage reads and where it writes.

    Attributes:
        spec: the resolved spec.
        planned: this stage with its content key and input keys.
        artifacts: the store.
        output: empty directory; every file in it is published under the stage's key.
        scratch: directory for temporary files, removed afterwards.
        cache: base models and verified downloads, kept between runs.
        progress: receiver of progress.
        stop: set when the process is asked to stop.
    """

    spec: PersonaModelSpec
    planned: PlannedStage
    artifacts: StageArtifacts
    output: Path
    scratch: Path
    cache: Path
    progress: Progress = field(default_factory=SilentProgress)
    stop: StopFlag = field(default_factory=StopFlag)

    def advance(self, count: int = 1) -> None:
        """Report `count` more finished units, and stop here if asked to.

        Raises:
            StageInterruptedError: a stop was requested.
        """
        self.progress.advance(count)
        self.stop.check()

    def input_manifests(self) -> list[StageManifest]:
        """Return the records of the stages whose results are read, of those that are finished."""
        inputs = self.planned.inputs.items()
        found = (self.artifacts.manifest(stage, key) for stage, key in inputs)
        return [manifest for manifest in found if manifest is not None]

    def input_file(self, stage: str, name: str) -> Path:
        """Return the verified local path of a file that `stage` made."""
        return self.artifacts.local_file(stage, self.planned.inputs[stage], name)

    def save_state(self, directory: Path, *, keep_all: bool = False, series: str = "") -> None:
        """Save `directory` as this stage's newest resume state, as `StageArtifacts.save_state`."""
        name, key = self.planned.name, self.planned.key
        with self.stop.while_saving():
            self.artifacts.save_state(name, key, directory, keep_all=keep_all, series=series)

    def load_state(self, *, series: str = "") -> Path | None:
        """Return the directory of the newest sound resume state of this stage, if there is one."""
        return self.artifacts.load_state(self.planned.name, self.planned.key, series=series)

    def load_states(self) -> Iterator[Path]:
        """Yield the directories of all sound resume states of this stage, the newest first."""
        return self.artifacts.load_states(self.planned.name, self.planned.key)


@dataclass
class StageOutcome:
    """What a stage reports beside its files.

    Attributes:
        results: key figures, for the manifest, the termination message and the table.
        timings: seconds by part.
        environment: device, dtype and threads that were used.
    """

    results: dict[str, JsonValue]
    timings: dict[str, float] = field(default_factory=dict)
    environment: dict[str, JsonValue] = field(default_factory=dict)


def jsonable(values: dict[str, Any]) -> dict[str, JsonValue]:
    """Round floats so that results read well; leaves everything else as it is."""
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
