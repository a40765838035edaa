"""`python -m persona_operator`: runs the operator until SIGTERM."""

import asyncio
import logging
import sys

import kopf

from persona_jobs.errors import EXIT_INPUT, EXIT_RETRY, InputError

from .log import configure_logging
from .runtime import Runtime
from .settings import Settings

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the operator and return the exit code."""
    try:
        settings = Settings.from_environment()
    except InputError as error:
        configure_logging("INFO")
        logger.error("%s", error)  # noqa: TRY400 -- one clear line instead of a traceback
        return EXIT_INPUT
    configure_logging(settings.log_level)
    from . import handlers  # noqa: F401 -- registers the handlers

    runtime = Runtime(settings)
    operator = kopf.operator(
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        standalone=True,
        memo=runtime,
        stop_flag=runtime.stopped,
    )
    try:
        asyncio.run(operator)
    except Exception as error:
        # kopf has logged where it happened.
        logger.error("The operator can't start: %s", error.__cause__ or error)  # noqa: TRY400
        return EXIT_RETRY
    return EXIT_RETRY if runtime.stopped.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
