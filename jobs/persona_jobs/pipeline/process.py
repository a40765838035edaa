"""What the stage, fetch and serve processes have in common: logs, signals, outcome, exit code.

A process that runs in a container leaves its outcome as JSON at the termination-message path, which
Kubernetes copies into the pod's status and the operator reads.
"""

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pydantic import JsonValue

from ..errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_RETRY,
    InputError,
    PersonaError,
    StageInterruptedError,
)
from .context import StopFlag
from .results import Outcome, StageFailure, TerminationMessage

DEFAULT_TERMINATION_PATH = Path("/dev/termination-log")
PROGRESS_SECONDS = 10.0
# A process that was asked to stop ends itself after this time, whatever it is doing.
STOP_SECONDS = 8.0
logger = logging.getLogger("persona_jobs")


class StopRequested(BaseException):
    """Raised by a signal where work may be stopped anywhere; no library catches it."""


@dataclass
class ProcessReport:
    """What a process reports at its end; its work fills it in.

    Attributes:
        stage: name of the stage.
        key: content key, empty while it is not known.
        outcome: `Done`, or `Reused` when there was nothing left to do.
        results: key figures.
        exit_code: how the process ends, None while it works.
    """

    stage: str
    key: str = ""
    outcome: Outcome = "Done"
    results: dict[str, JsonValue] = field(default_factory=dict)
    exit_code: int | None = None


def run_process(report: ProcessReport, work: Callable[[ProcessReport], None]) -> int:
    """Run `work`, write the termination message and return the exit code.

    An expected failure (`PersonaError`) becomes one log line, an unexpected one a traceback. The
    exit codes are those of `persona_jobs.errors`.
    """
    started = time.monotonic()
    failure: StageFailure | None = None
    code = EXIT_DONE
    try:
        work(report)
    except (PersonaError, StopRequested) as error:
        expected = error if isinstance(error, PersonaError) else _stopped(report.stage)
        logger.error("%s: %s", type(expected).__name__, expected)  # noqa: TRY400 -- one clear line
        failure, code = failure_of(expected), expected.exit_code
        report.outcome = "Interrupted" if code == EXIT_INTERRUPTED else "Failed"
    except Exception as error:
        logger.exception("The %s process failed unexpectedly", report.stage)
        failure = StageFailure(error_class=type(error).__name__, message=str(error)[:500])
        code, report.outcome = EXIT_RETRY, "Failed"
    write_termination_message(
        TerminationMessage(
            stage=report.stage[:63],
            key=report.key[:64],
            outcome=report.outcome,
            seconds=round(time.monotonic() - started, 1),
            metrics=report.results,
            failure=failure,
        )
    )
    report.exit_code = code
    return code


def end_overdue(report: ProcessReport) -> int:
    """Report a process that did not stop in time as interrupted, and return its exit code."""
    if report.exit_code is not None:  # the work has ended, only its threads have not
        return report.exit_code
    logger.warning("The %s process ends now: its work since the last state is lost", report.stage)
    write_termination_message(
        TerminationMessage(
            stage=report.stage[:63],
            key=report.key[:64],
            outcome="Interrupted",
            failure=failure_of(_stopped(report.stage)),
        )
    )
    return EXIT_INTERRUPTED


def required_setting(value: str | None, variable: str) -> str:
    """Return a setting that the process can't do without.

    Raises:
        InputError: it is empty.
    """
    if not value:
        raise InputError(f"{variable} is not set", hint=f"Set {variable}")
    return value


def failure_of(error: PersonaError) -> StageFailure:
    """Return the form of an error that goes into a termination message."""
    return StageFailure(
        error_class=type(error).__name__,
        message=error.message,
        subject=error.subject,
        hint=error.hint,
    )


def write_termination_message(message: TerminationMessage) -> None:
    """Write the message to PERSONA_TERMINATION_MESSAGE, else to Kubernetes' default path.

    Outside a container the default path doesn't exist and nothing is written. A failure to write
    is logged, never raised: the exit code still reports the outcome.
    """
    configured = os.environ.get("PERSONA_TERMINATION_MESSAGE")
    path = Path(configured) if configured else DEFAULT_TERMINATION_PATH
    if not configured and not path.exists():
        return
    try:
        path.write_bytes(message.encode())
    except OSError as error:
        logger.warning("The termination message %s can't be written: %s", path, error.strerror)


def configure_logging() -> None:
    """Send the log of the process to standard error, one line per record."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    for noisy in ("httpx", "httpx2", "urllib3", "filelock", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def stop_on_signals(
    *, on_first: Callable[[], None] = lambda: None, on_overdue: Callable[[], int]
) -> StopFlag:
    """Return a flag that SIGTERM and SIGINT set, and make sure that the process ends.

    Work looks at the flag where it can stop without loss. A single tensor operation, a download or
    a request to a server that doesn't answer can take longer than anybody waits, so a thread ends
    the process after `STOP_SECONDS`, or at once at a second signal. Only a resume state that is
    being written delays it.

    Args:
        on_first: called at the first signal.
        on_overdue: called before the process is ended by force; returns its exit code.
    """
    flag = StopFlag()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if not flag.requested:
            flag.request()
            on_first()

    def watch() -> None:
        # The interpreter writes to the pipe even while the main thread is in native code.
        os.read(reader, 1)
        until = time.monotonic() + STOP_SECONDS
        while not select.select([reader], [], [], 0.1)[0]:
            if time.monotonic() >= until and not flag.saving:
                break
        os._exit(on_overdue())

    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    threading.Thread(target=watch, name="stop", daemon=True).start()
    return flag


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise `StopRequested` in the main thread on SIGTERM and SIGINT while inside."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        raise StopRequested

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stopped(stage: str) -> StageInterruptedError:
    return StageInterruptedError(
        f"The {stage} process was stopped by a signal",
        hint="Start it again: it resumes where it stopped",
    )


class LogProgress:
    """Progress as log lines, at most one every ten seconds."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._what = ""
        self._total = 0
        self._done = 0
        self._started = 0.0
        self._reported = 0.0

    def begin(self, what: str, total: int) -> None:
        """Report that a part of the stage starts."""
        self._what, self._total, self._done = what, total, 0
        self._started = self._reported = time.monotonic()
        logger.info("%s: %s (%d)", self._stage, what, total)

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self._done += count
        now = time.monotonic()
        if now - self._reported < PROGRESS_SECONDS:
            return
        self._reported = now
        left = (now - self._started) / max(1, self._done) * (self._total - self._done)
        logger.info(
            "%s: %s %d/%d, about %.0f s left",
            self._stage,
            self._what,
            self._done,
            self._total,
            left,
        )

    def note(self, message: str) -> None:
        """Log one line."""
        logger.info("%s: %s", self._stage, message)
