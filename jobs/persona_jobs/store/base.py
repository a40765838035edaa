"""The interface of every store, its paths and its errors."""

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
    """A stream of bytes that returns no bytes at its end."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""


MAX_PATH_BYTES = 900  # an S3 key has at most 1,024 bytes; the store's prefix needs some of them
MAX_SEGMENT_BYTES = 200  # a file name has at most 255 bytes; temporary suffixes need some of them


class ObjectNotFoundError(StoreError):
    """The store answered that it holds no object of this name. Exit code 1."""


@dataclass(frozen=True)
class ObjectStat:
    """Size in bytes of an object and a tag that changes whenever its content is replaced."""

    size: int
    etag: str | None = None


def validate_path(path: str) -> str:
    """Return `path` if it is a safe relative POSIX path, such as `stages/mask/ab/z.json`.

    Raises:
        InputError: the path is empty, absolute or too long, or has an empty, `.` or `..` segment,
            a backslash or a control character.
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
            f"The object path {path[:200]!r} {reason}",
            hint="Use a relative path with plain segments, such as stages/mask/manifest.json",
        )
    return path


def _encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class ObjectChangedError(StoreError):
    """The object was replaced while it was being read. Exit code 1."""


class TransferInterruptedError(StoreError):
    """The connection broke within an object; reading can resume there. Exit code 1."""


class Store(ABC):
    """Objects by relative POSIX path. Writes are atomic: readers see the old or the new object.

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
        """Return size and tag of an object, None if it does not exist."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the paths of all objects below the folder `prefix` (all of them for `""`)."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object if it exists."""

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
        """Open an object for reading, starting at byte `offset`.

        Raises:
            ObjectNotFoundError: there is no such object.
            ObjectChangedError: the object's tag is no longer `etag`.
            TransferInterruptedError: (from the reader) the connection broke.
        """

    def local_path(self, path: str) -> Path | None:
        """Return the object's path on this machine's disk, None for a remote store."""
        del path
        return None
