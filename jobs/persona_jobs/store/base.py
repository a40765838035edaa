"""What every store can do, whatever it is kept in."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import InputError, StoreError

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class ByteReader(Protocol):
    """Anything that gives the next bytes, and none at its end."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""


MAX_PATH_BYTES = 900  # S3 keys hold 1,024 bytes; the rest is left to the store's prefix
MAX_SEGMENT_BYTES = 200  # file names hold 255 bytes; the rest is left to temporary suffixes


class ObjectNotFoundError(StoreError):
    """The store answered, and holds no object of that name. Exit code 1."""


@dataclass(frozen=True)
class ObjectStat:
    """Size in bytes of an object and a tag that changes whenever its content is replaced."""

    size: int
    etag: str | None = None


def validate_path(path: str) -> str:
    """Return `path` if it is a safe relative posix key, such as `stages/mask/ab/z.json`.

    Raises:
        InputError: for empty or absolute paths, `.` and `..`, empty segments, backslashes,
            control characters and overlong names.
    """
    segments = path.split("/")
    reason = ""
    if not path:
        reason = "is empty"
    elif path.startswith("/"):
        reason = "is absolute"
    elif any(segment in {"", ".", ".."} for segment in segments):
        reason = "has an empty, '.' or '..' segment"
    elif "\\" in path or any(ord(character) < 32 or ord(character) == 127 for character in path):
        reason = "has a backslash or a control character"
    elif not _encodable(path):
        reason = "is not valid Unicode"
    elif len(path.encode()) > MAX_PATH_BYTES or any(
        len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments
    ):
        reason = "is too long"
    if reason:
        raise InputError(
            f"the object path {path[:200]!r} {reason}",
            hint="use a relative path with plain segments, such as stages/mask/manifest.json",
        )
    return path


def _encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class ObjectChangedError(StoreError):
    """The object was replaced while it was read. Exit code 1."""


class TransferInterruptedError(StoreError):
    """The connection broke within an object; reading can go on from there. Exit code 1."""


class Store(ABC):
    """Objects by relative posix path. All writes are atomic: readers see the old or the new object.

    Every method raises `StoreError` when the store can't be reached, is full, or refuses, and
    `InputError` for a path that `validate_path` rejects.
    """

    url: str
    """Where the store is, without credentials and without a trailing slash."""

    def describe(self, path: str) -> str:
        """Return the full URL of an object, for messages."""
        return f"{self.url}/{path}"

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """Return a whole (small) object.

        Raises:
            ObjectNotFoundError: there is no such object.
        """

    @abstractmethod
    def write_bytes(self, path: str, data: bytes) -> ObjectStat:
        """Create or replace a (small) object."""

    @abstractmethod
    def stat(self, path: str) -> ObjectStat | None:
        """Return size and tag of an object, None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the paths of all objects below the folder `prefix` (all of them for `""`)."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object; removing an absent one is no error."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Remove everything below the folder `prefix`."""

    @abstractmethod
    def upload(self, path: str, local: Path) -> ObjectStat:
        """Store a local file of any size under `path`."""

    @abstractmethod
    def open_range(
        self, path: str, offset: int, etag: str | None
    ) -> AbstractContextManager[ByteReader]:
        """Open an object for reading from byte `offset` on.

        Raises:
            ObjectNotFoundError: there is no such object.
            ObjectChangedError: the object's tag is no longer `etag`.
            TransferInterruptedError: (from the reader) the connection broke.
        """

    def local_path(self, path: str) -> Path | None:
        """Return where the object lies on this machine's disk, None for remote stores."""
        del path
        return None

    def download(
        self,
        path: str,
        local: Path,
        *,
        size: int | None = None,
        sha256: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Copy an object to `local`, going on from an earlier interrupted download.

        Bytes land in a `.part` file beside `local`, which takes its place only when it is
        complete and verified. A `local` that already has the right content is left alone.

        Args:
            path: the object.
            local: the file to create; its parent folder is made where needed.
            size: expected size in bytes, None to take the store's word for it.
            sha256: expected checksum (64 hex digits), None to skip that check.
            progress: called now and then with (bytes done, bytes in all).

        Raises:
            ObjectNotFoundError: there is no such object.
            CorruptArtifactError: the object is truncated or altered.
        """
        from .transfer import download

        download(self, path, local, size=size, sha256=sha256, progress=progress)

    def probe(self) -> None:
        """Write and remove a small object, so that a read-only store fails before long work."""
        path = f".persona-probe-{secrets.token_hex(8)}"
        self.write_bytes(path, b"persona-pruner writes here\n")
        self.delete(path)
