"""Where a stage process leaves its outcome for Kubernetes."""

import logging
import os
from pathlib import Path

from ..errors import PersonaError
from .results import StageFailure, TerminationMessage

DEFAULT_PATH = Path("/dev/termination-log")


def write_termination_message(message: TerminationMessage) -> None:
    """Write the message to PERSONA_TERMINATION_MESSAGE, else to Kubernetes' default path.

    Outside a container the default path doesn't exist and nothing is written. A failure to write
    is logged, never raised: the exit code still tells.
    """
    configured = os.environ.get("PERSONA_TERMINATION_MESSAGE")
    path = Path(configured) if configured else DEFAULT_PATH
    if not configured and not path.exists():
        return
    try:
        path.write_bytes(message.encode())
    except OSError as error:
        logging.getLogger(__name__).warning("can't write %s: %s", path, error.strerror)


def failure_of(error: PersonaError) -> StageFailure:
    """The form of an error that goes into a termination message."""
    return StageFailure(
        error_class=type(error).__name__,
        message=error.message,
        subject=error.subject,
        hint=error.hint,
    )
