"""Local files: their checksums, locks between processes, and errors of the operating system."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import StoreError

CHUNK_BYTES = 1 << 20

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_stream(handle: BinaryIO) -> "hashlib._Hash":
    """Return a running SHA-256 over everything from the position of `handle` to its end."""
    digest = hashlib.sha256()
    while chunk := handle.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest


@contextmanager
def locked_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for reading and writing, creating it, and hold an exclusive lock on it.

    Waits while another process holds the lock. The holder may rename or remove the file: a
    process that waited then gets the file that has the name now, never the renamed one.

    Raises:
        OSError: the file can't be opened.
    """
    while True:
        handle = path.open("a+b")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield handle
                return
        finally:
            handle.close()


def store_error(error: OSError, *, action: str, subject: str) -> StoreError:
    """Return the `StoreError` for an error of the operating system.

    Args:
        error: the error.
        action: what was tried, such as `"write"`.
        subject: URL or path of the object or file.
    """
    code = error.errno
    if code in _FULL:
        reason, hint = "the disk is full", "Free some space or use another store, then run again"
    elif code == errno.EFBIG:
        reason, hint = "the file is larger than this system allows", "Raise the file size limit"
    elif code in _DENIED:
        reason = "permission denied"
        hint = "Make it writable for this user, or use another store"
    elif code in _IN_THE_WAY:
        reason = "a file is where a directory should be, or a directory where a file should be"
        hint = "Move it away, or use another store"
    elif code == errno.ENAMETOOLONG:
        reason, hint = "the path is too long for this file system", "Use a shorter store path"
    else:
        reason, hint = error.strerror or type(error).__name__, "Check the disk and run again"
    return StoreError(f"Can't {action} {subject}: {reason}", hint=hint)
