"""SHA-256 of files."""

import hashlib
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits.

    Raises:
        OSError: as for reading a file.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_stream(handle: BinaryIO) -> "hashlib._Hash":
    """Return a running SHA-256 over all that is left to read of `handle`."""
    digest = hashlib.sha256()
    while chunk := handle.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest
