"""Downloads that resume, verify and replace atomically."""

import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO

from ..errors import CorruptArtifactError, StoreError
from .base import (
    ObjectChangedError,
    ObjectNotFoundError,
    ObjectStat,
    ProgressCallback,
    Store,
    TransferInterruptedError,
)
from .files import CHUNK_BYTES, locked_file, sha256_file, sha256_stream, store_error

ATTEMPTS = 4
"""Consecutive attempts without a new byte after which a download fails."""

BACKOFF_SECONDS = 0.5


def download(
    store: Store,
    path: str,
    local: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Copy an object to `local`, resuming an interrupted download if `sha256` is known.

    Bytes are written to a `.part` file beside `local`, which replaces `local` only when it is
    complete and verified. A `local` that already has the right content is left alone.

    Args:
        store: the store that holds the object.
        path: the object.
        local: the file to create; its parent folders are created if needed.
        size: expected size in bytes, None to accept the size that the store reports.
        sha256: expected checksum (64 hex digits), None to skip that check.
        progress: called after each chunk with (bytes done, bytes in all).

    Raises:
        ObjectNotFoundError: there is no such object.
        CorruptArtifactError: the object is truncated or altered.
        StoreError: the store can't be read, or `local` can't be written.
    """
    for attempt in range(ATTEMPTS):
        try:
            _download(store, path, local, size=size, sha256=sha256, progress=progress)
        except ObjectChangedError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(BACKOFF_SECONDS * 2**attempt)
        else:
            return


def _download(
    store: Store,
    path: str,
    local: Path,
    *,
    size: int | None,
    sha256: str | None,
    progress: ProgressCallback | None,
) -> None:
    if sha256 is not None and _already_there(local, size, sha256):
        return
    found = store.stat(path)
    if found is None:
        raise ObjectNotFoundError(
            f"{store.describe(path)} does not exist", hint="Run the stage that creates it again"
        )
    if size is not None and found.size != size:
        raise _corrupt(store, path, f"it has {found.size:,} bytes instead of {size:,}")
    # A partial file belongs to one content only, which its name identifies.
    tag = (sha256 or hashlib.sha256(f"{found.etag}-{found.size}".encode()).hexdigest())[:16]
    part = local.with_name(f"{local.name}.{tag}.part")
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(part) as handle:
            if sha256 is not None and _already_there(local, size, sha256):
                part.unlink()
                return
            _fill(store, path, handle, found, sha256=sha256, progress=progress)
            handle.flush()
            os.fsync(handle.fileno())
            part.replace(local)
    except OSError as error:
        raise store_error(error, action="write", subject=str(local)) from error


def _already_there(local: Path, size: int | None, sha256: str) -> bool:
    try:
        if size is not None and local.stat().st_size != size:
            return False
        return sha256_file(local) == sha256
    except OSError:
        return False


def _fill(
    store: Store,
    path: str,
    handle: BinaryIO,
    found: ObjectStat,
    *,
    sha256: str | None,
    progress: ProgressCallback | None,
) -> None:
    """Complete a partial file; one that has a wrong checksum then is downloaded again in full.

    Without a checksum nobody would notice a damaged partial file, so that none is continued.
    """
    handle.seek(0, os.SEEK_END)
    resumed = sha256 is not None and 0 < handle.tell() <= found.size
    if not resumed:
        handle.truncate(0)
    digest = _append(store, path, handle, found, progress)
    if sha256 is not None and digest != sha256 and resumed:
        handle.truncate(0)
        digest = _append(store, path, handle, found, progress)
    if sha256 is not None and digest != sha256:
        handle.truncate(0)
        raise _corrupt(store, path, "its SHA-256 differs from the recorded one")


def _append(
    store: Store,
    path: str,
    handle: BinaryIO,
    found: ObjectStat,
    progress: ProgressCallback | None,
) -> str:
    handle.seek(0)
    digest = sha256_stream(handle)
    done = handle.tell()
    failures = 0
    while done < found.size:
        before = done
        try:
            with store.open_range(path, done, found.etag) as body:
                while chunk := body.read(min(CHUNK_BYTES, found.size - done)):
                    handle.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, found.size)
            reason = "the connection closed early"
        except TransferInterruptedError as error:
            reason = error.message
        if done < found.size:
            failures = 0 if done > before else failures + 1
            if failures >= ATTEMPTS:
                handle.flush()
                raise StoreError(
                    f"The download of {store.describe(path)} stopped at {done:,} of "
                    f"{found.size:,} bytes: {reason}",
                    hint="Check the store and run again: the download resumes there",
                )
            time.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
    return digest.hexdigest()


def _corrupt(store: Store, path: str, reason: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{store.describe(path)} is truncated or altered: {reason}",
        hint=f"Delete {store.describe(path).rpartition('/')[0]} and run again to recreate it",
        subject=store.describe(path),
    )
