"""Verified copies of all files of a finished stage, for a process outside the pipeline."""

import logging
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import CorruptArtifactError, InputError, StoreError
from .artifacts import MANIFEST_NAME, StageArtifacts, stage_path
from .base import ObjectNotFoundError, Store
from .files import store_error
from .manifest import StageManifest
from .transfer import download

PROGRESS_SECONDS = 5.0

_STAGE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """The result of a fetch.

    Attributes:
        files: number of files of the stage.
        total_bytes: their size.
        fetched_bytes: size of the files that were not in the directory yet.
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
        destination: directory, created if needed. Interrupted downloads stay there as `.part`
            files for the next call.

    Raises:
        InputError: the stage or the key is malformed, or `destination` holds other files.
        CorruptArtifactError: an object is truncated, altered or missing.
        StoreError: the stage is not finished, the store can't be read, or the disk is too small.
    """
    if not _STAGE.fullmatch(stage):
        raise InputError(f"{stage[:80]!r} is not a stage", hint="Use a stage such as slice")
    if not _KEY.fullmatch(key):
        raise InputError(
            f"{key[:80]!r} is not a content key",
            hint="Copy the 64 hexadecimal digits from the persona's status",
        )
    manifest = StageArtifacts(store).manifest(stage, key)
    if manifest is None:
        raise ObjectNotFoundError(
            f"{store.describe(stage_path(stage, key, MANIFEST_NAME))} does not exist: "
            f"the stage {stage} with this key is not finished",
            hint="Check PERSONA_STORE and the key, or run the stage again",
        )
    _prepare(manifest, destination)
    fetched = 0
    for name, entry in manifest.files.items():
        local = destination / name
        before = _identity(local)
        path = stage_path(stage, key, name)
        try:
            download(
                store,
                path,
                local,
                size=entry.size,
                sha256=entry.sha256,
                progress=_ProgressLog(name),
            )
        except ObjectNotFoundError as error:
            raise CorruptArtifactError(
                f"{store.describe(path)} does not exist, although the stage is finished",
                hint="Delete its folder and run the stage again",
            ) from error
        if _identity(local) != before:
            fetched += entry.size
            logger.info("%s: %d bytes fetched and verified", name, entry.size)
    total = sum(entry.size for entry in manifest.files.values())
    return Fetched(files=len(manifest.files), total_bytes=total, fetched_bytes=fetched)


def _prepare(manifest: StageManifest, destination: Path) -> None:
    """Create the directory, refuse one that holds other files, and check the free space."""
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
    # A loader may read weights that belong to another model.
    foreign = sorted(set(present) - set(partial) - set(manifest.files))
    if foreign:
        raise InputError(
            f"{destination} holds files that don't belong to this {manifest.stage} stage, "
            f"such as {foreign[0]}",
            hint="Use an empty directory",
            subject=str(destination),
        )
    missing = sum(
        entry.size for name, entry in manifest.files.items() if present.get(name) != entry.size
    )
    needed = missing - sum(partial.values())
    if needed > free:
        raise StoreError(
            f"{destination} has {free:,} bytes free, but {needed:,} more are needed",
            hint="Use a larger volume",
            subject=str(destination),
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class _ProgressLog:
    """A log line every few seconds while a file is being downloaded."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            logger.info("%s: %d of %d bytes fetched", self._name, done, total)
