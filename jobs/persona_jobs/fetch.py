"""Bring the verified files of a finished stage to a local directory.

`python -m persona_jobs.fetch STAGE KEY DEST` is the init container of a serving pod. It reads the
store from `PERSONA_STORE` and the `AWS_*` variables, goes on from an interrupted download, and
leaves files alone that are there already with the right checksum.
"""

import argparse
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import (
    CorruptArtifactError,
    InputError,
    StoreError,
)
from .pipeline.graph import short_key
from .pipeline.process import (
    ProcessReport,
    configure_logging,
    raising_on_signals,
    required_setting,
    run_process,
)
from .store import ObjectNotFoundError, StageArtifacts, StageManifest, Store, open_store
from .store.files import store_error

PROGRESS_SECONDS = 5.0

_STAGE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}")
logger = logging.getLogger("persona_jobs.fetch")


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        files: number of files of the stage.
        total_bytes: their size.
        fetched_bytes: size of those that weren't there yet.
    """

    files: int
    total_bytes: int
    fetched_bytes: int


def fetch(store: Store, stage: str, key: str, destination: Path) -> Fetched:
    """Copy the files of a finished stage into `destination` and verify them.

    Args:
        store: the artifact store.
        stage: name of the stage, such as `slice`.
        key: its content key, 64 hex digits.
        destination: directory, made where needed. Interrupted downloads stay there as `.part`
            files for the next call.

    Raises:
        InputError: stage or key are malformed, or `destination` holds other files.
        CorruptArtifactError: an object is truncated, altered or missing.
        StoreError: the stage isn't finished, the store can't be read, or the disk is too small.
    """
    if not _STAGE.fullmatch(stage):
        raise InputError(f"{stage[:80]!r} is not a stage", hint="name a stage such as slice")
    if not _KEY.fullmatch(key):
        raise InputError(
            f"{key[:80]!r} is not a content key",
            hint="copy the 64 hexadecimal digits from the persona's status or manifest",
        )
    manifest = StageArtifacts(store).manifest(stage, key)
    if manifest is None:
        raise ObjectNotFoundError(
            f"{store.describe(f'stages/{stage}/{key}/manifest.json')} does not exist: "
            f"stage {stage} with this key is not finished",
            hint="check PERSONA_STORE and the key, or run the stage again",
        )
    _prepare(manifest, destination)
    fetched = 0
    for name, entry in manifest.files.items():
        local = destination / name
        before = _identity(local)
        progress = _ProgressLog(name)
        path = f"stages/{stage}/{key}/{name}"
        try:
            store.download(path, local, size=entry.size, sha256=entry.sha256, progress=progress)
        except ObjectNotFoundError as error:
            raise CorruptArtifactError(
                f"{store.describe(path)} does not exist, though the stage is finished",
                hint="delete the folder it lies in and run the stage again",
            ) from error
        if _identity(local) != before:
            fetched += entry.size
            logger.info("%s: %d bytes fetched and verified", name, entry.size)
    total = sum(entry.size for entry in manifest.files.values())
    return Fetched(files=len(manifest.files), total_bytes=total, fetched_bytes=fetched)


def _prepare(manifest: StageManifest, destination: Path) -> None:
    """Make the directory, refuse one that holds other files, and check the free space."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
        present = {
            path.relative_to(destination).as_posix(): path.stat().st_size
            for path in destination.rglob("*")
            if path.is_file() and "lost+found" not in path.parts
        }
        free = shutil.disk_usage(destination).free
    except OSError as error:
        raise store_error(error, action="write", subject=str(destination)) from error
    partial = {name: size for name, size in present.items() if name.endswith(".part")}
    # A loader may take weights that another model left behind.
    foreign = sorted(set(present) - set(partial) - set(manifest.files))
    if foreign:
        raise InputError(
            f"{destination} holds files that don't belong to this {manifest.stage} stage, "
            f"such as {foreign[0]}",
            hint="name an empty directory",
            subject=str(destination),
        )
    missing = sum(
        entry.size for name, entry in manifest.files.items() if present.get(name) != entry.size
    )
    needed = missing - sum(partial.values())
    if needed > free:
        raise StoreError(
            f"{destination} has {free:,} bytes free and {needed:,} more are needed",
            hint="give it a larger volume",
            subject=str(destination),
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class _ProgressLog:
    """One log line each few seconds while a file is on its way."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            logger.info("%s: %d of %d bytes", self._name, done, total)


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
