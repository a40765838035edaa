"""Log lines of a stage process."""

import logging
import sys
import time

REPORT_SECONDS = 10.0


def stage_logger() -> logging.Logger:
    """The logger of stage processes, writing to standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for noisy in ("httpx", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return logging.getLogger("persona_jobs")


class LogProgress:
    """Progress as log lines, at most one every ten seconds."""

    def __init__(self, logger: logging.Logger, stage: str) -> None:
        self.logger = logger
        self._stage = stage
        self._what = ""
        self._total = 0
        self._done = 0
        self._started = 0.0
        self._reported = 0.0

    def begin(self, what: str, total: int) -> None:
        """A part of the stage starts."""
        self._what, self._total, self._done = what, total, 0
        self._started = self._reported = time.monotonic()
        self.logger.info("%s: %s (%d)", self._stage, what, total)

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self._done += count
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        left = (now - self._started) / max(1, self._done) * (self._total - self._done)
        self.logger.info(
            "%s: %s %d/%d, about %.0f s left",
            self._stage,
            self._what,
            self._done,
            self._total,
            left,
        )

    def note(self, message: str) -> None:
        """Something worth one line."""
        self.logger.info("%s: %s", self._stage, message)
