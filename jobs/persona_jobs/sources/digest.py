"""Digests of local sources, for content keys."""

import hashlib
from pathlib import Path

from ..errors import InputError
from ..store.files import sha256_file, store_error
from ..store.urls import file_url_path


def digest(uri: str) -> str | None:
    """Return `sha256:<64 hex digits>` of a `file://` source's content, None for other sources.

    A directory's digest covers the relative names and the contents of all its files except
    hidden ones.

    Raises:
        InputError: the path does not exist, or the directory is empty.
        StoreError: a file can't be read.
    """
    if not uri.startswith("file://"):
        return None
    path = file_url_path(uri)
    try:
        if path.is_file():
            return f"sha256:{sha256_file(path)}"
        files = sorted(file for file in path.rglob("*") if _counts(file, path))
        total = hashlib.sha256()
        for file in files:
            name = file.relative_to(path).as_posix()
            total.update(f"{sha256_file(file)}  {name}\n".encode())
    except OSError as error:
        raise store_error(error, action="read", subject=str(path)) from error
    if not files:
        state = "contains no files" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {state}", hint="Correct the path", subject=uri)
    return f"sha256:{total.hexdigest()}"


def _counts(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.is_file()
