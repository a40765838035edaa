"""Advisory locks between processes of one machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def locked_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for reading and writing, creating it, and hold an exclusive lock on it.

    Waits for another holder. The holder may rename or remove the file: whoever waited then gets
    the file that has the name now, never the renamed one.

    Raises:
        OSError: as for opening a file.
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
