"""Turn SIGTERM and Ctrl-C into a request to stop at the next safe point."""

import os
import signal
from collections.abc import Callable
from types import FrameType

from ..errors import EXIT_INTERRUPTED
from .context import StopFlag


def stop_on_signals(on_first: Callable[[], None] = lambda: None) -> StopFlag:
    """A flag that SIGTERM and SIGINT set; a second signal ends the process at once.

    Args:
        on_first: called at the first signal.
    """
    flag = StopFlag()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if flag.requested:
            os._exit(EXIT_INTERRUPTED)
        flag.request()
        on_first()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return flag
