"""A store in a directory of the local disk or of a mounted volume."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import quote

from .base import ObjectChangedError, ObjectNotFoundError, ObjectStat, Store, validate_path
from .files import store_error

_TEMPORARY_SUFFIX = ".tmp~"
_STALE_SECONDS = 24 * 3600


class FileStore(Store):
    """A store whose objects are plain files below `root`, which the first write creates."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
        self.url = "file://" + quote(str(self.root))

    def local_path(self, path: str) -> Path:
        """Return the file that holds an object, whether it exists or not."""
        return self.root.joinpath(*validate_path(path).split("/"))

    def read_bytes(self, path: str) -> bytes:
        """Return a whole object."""
        try:
            return self.local_path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._missing(path)
        except OSError as error:
            raise store_error(error, action="read", subject=self.describe(path)) from error

    def write_bytes(self, path: str, data: bytes) -> ObjectStat:
        """Create or replace an object through a temporary file beside it."""
        with self._replacing(path) as handle:
            handle.write(data)
        return self._written(path)

    def upload(self, path: str, local: Path) -> ObjectStat:
        """Copy a local file into the store."""
        try:
            source = local.open("rb")
        except OSError as error:
            raise store_error(error, action="read", subject=str(local)) from error
        with source, self._replacing(path) as handle:
            shutil.copyfileobj(source, handle, 1 << 20)
        return self._written(path)

    def stat(self, path: str) -> ObjectStat | None:
        """Return the size and a tag of inode, size and modification time."""
        target = self.local_path(path)
        try:
            status = target.stat()
            is_file = target.is_file()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise store_error(error, action="read", subject=self.describe(path)) from error
        return _object_stat(status) if is_file else None

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield all finished files below `prefix`, sorted."""
        folder = self.local_path(prefix) if prefix else self.root

        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise store_error(error, action="list", subject=self.describe(prefix)) from error

        for current, folders, names in os.walk(folder, onerror=fail):
            folders.sort()
            relative = Path(current).relative_to(self.root)
            for name in sorted(names):
                if not name.endswith(_TEMPORARY_SUFFIX):
                    yield (relative / name).as_posix()

    def delete(self, path: str) -> None:
        """Remove an object and the folders that are empty without it."""
        target = self.local_path(path)
        try:
            target.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise store_error(error, action="delete", subject=self.describe(path)) from error
        self._remove_empty(target.parent)

    def delete_prefix(self, prefix: str) -> None:
        """Remove a folder and everything in it."""
        folder = self.local_path(prefix)
        try:
            shutil.rmtree(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise store_error(error, action="delete", subject=self.describe(prefix)) from error
        self._remove_empty(folder.parent)

    @contextmanager
    def open_range(self, path: str, offset: int, etag: str | None) -> Iterator[BinaryIO]:
        """Open an object's file at `offset`."""
        try:
            handle = self.local_path(path).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._missing(path)
        except OSError as error:
            raise store_error(error, action="read", subject=self.describe(path)) from error
        with handle:
            if etag is not None and _object_stat(os.fstat(handle.fileno())).etag != etag:
                raise ObjectChangedError(
                    f"{self.describe(path)} was replaced while it was being read", hint="Run again"
                )
            handle.seek(offset)
            yield handle

    def _remove_empty(self, folder: Path) -> None:
        """Remove folders that became empty, up to the root."""
        with suppress(OSError):  # not empty, or gone already
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    @contextmanager
    def _replacing(self, path: str) -> Iterator[BinaryIO]:
        """Write a temporary file that replaces the object once it is safely on the disk."""
        target = self.local_path(path)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}")
        try:
            handle = self._create(temporary)
            try:
                with handle:
                    yield handle
                    handle.flush()
                    os.fsync(handle.fileno())
                temporary.replace(target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
            _sync_directory(target.parent)
        except OSError as error:
            raise store_error(error, action="write", subject=self.describe(path)) from error

    def _create(self, temporary: Path) -> BinaryIO:
        """Create a file whose folder another process may be removing at the same moment."""
        for attempt in range(3):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(temporary.parent)
            try:
                return temporary.open("xb")
            except FileNotFoundError:
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _written(self, path: str) -> ObjectStat:
        stat = self.stat(path)
        if stat is None:
            raise ObjectNotFoundError(
                f"{self.describe(path)} was removed while it was being written", hint="Run again"
            )
        return stat

    def _missing(self, path: str) -> NoReturn:
        raise ObjectNotFoundError(
            f"{self.describe(path)} does not exist", hint="Run the stage that creates it again"
        ) from None


def _object_stat(status: os.stat_result) -> ObjectStat:
    tag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return ObjectStat(size=status.st_size, etag=tag)


def _sync_directory(folder: Path) -> None:
    """Make a rename durable where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed a day ago or earlier."""
    for leftover in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
