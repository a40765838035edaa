"""Copy the verified files of a finished stage to a local directory.

`python -m persona_jobs.fetch STAGE KEY DEST` is the init container of a serving pod. It reads the
store from `PERSONA_STORE` and the `AWS_*` variables, resumes an interrupted download, and keeps
files that already have the right checksum.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .pipeline.graph import short_key
from .pipeline.process import (
    ProcessReport,
    configure_logging,
    raising_on_signals,
    required_setting,
    run_process,
)
from .store import open_store
from .store.fetch import fetch
from .store.files import store_error

logger = logging.getLogger("persona_jobs.fetch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `persona_jobs.errors`)."""
    parser = argparse.ArgumentParser(
        prog="python -m persona_jobs.fetch",
        description="Fetch and verify the files of a finished stage from PERSONA_STORE.",
    )
    parser.add_argument("stage", metavar="STAGE", help="name of the stage, such as slice")
    parser.add_argument("key", metavar="KEY", help="content key of the stage, 64 hex digits")
    parser.add_argument("destination", metavar="DEST", type=Path, help="directory to fill")
    options = parser.parse_args(arguments)
    configure_logging()
    with raising_on_signals():
        return run_process(
            ProcessReport(options.stage, options.key),
            lambda report: _fetch_from_environment(options.destination, report),
        )


def _fetch_from_environment(destination: Path, report: ProcessReport) -> None:
    url = required_setting(os.environ.get("PERSONA_STORE"), "PERSONA_STORE")
    try:
        done = fetch(open_store(url), report.stage, report.key, destination)
    except OSError as error:
        raise store_error(error, action="fill", subject=str(destination)) from error
    report.outcome = "Done" if done.fetched_bytes else "Reused"
    report.results = {
        "files": done.files,
        "bytes": done.total_bytes,
        "fetched": done.fetched_bytes,
    }
    found = "fetched and verified" if done.fetched_bytes else "already there and verified"
    logger.info(
        "Stage %s, key %s: %s in %s", report.stage, short_key(report.key), found, destination
    )


if __name__ == "__main__":
    sys.exit(main())
