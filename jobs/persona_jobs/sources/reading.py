"""Data files from the disk or a bucket, as text, JSON or JSON lines."""

import json
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..store import ObjectNotFoundError, Store, download, open_store
from ..store.files import store_error
from ..store.urls import file_url_path, split_s3_url
from .access import SourceAccess


def data_file(uri: str, *, cache_dir: Path | None, access: SourceAccess) -> Path:
    """Return a local path for a `file://` or `s3://` data file.

    Args:
        uri: the file; S3 objects are downloaded.
        cache_dir: where downloads are kept; None for the user's cache folder.
        access: how the bucket is reached.

    Raises:
        InputError: the URI has another scheme, or the file does not exist.
        StoreError: the bucket can't be reached, or the disk is full.
    """
    if uri.startswith("file://"):
        path = file_url_path(uri)
        if not path.is_file():
            state = "is a directory, not a file" if path.is_dir() else "does not exist"
            raise InputError(f"{path} {state}", hint="Correct the path", subject=uri)
        return path
    if uri.startswith("s3://"):
        store, name = s3_object(uri, access)
        folder = sha256(access.location(uri).encode()).hexdigest()[:16]
        local = downloads_dir(cache_dir) / folder / name
        try:
            fetch_object(store, name, local)
        except ObjectNotFoundError:
            raise InputError(
                f"{uri} does not exist", hint="Correct the bucket or the key", subject=uri
            ) from None
        return local
    raise InputError(
        f"{uri[:200]!r} is not a source of this kind of data",
        hint="Use file:///path or s3://bucket/key",
    )


def s3_object(uri: str, access: SourceAccess) -> tuple[Store, str]:
    """Return the store of an object's folder and the object's name in it.

    Raises:
        InputError: the URI names only a bucket.
    """
    bucket, key = split_s3_url(uri)
    folder, _, name = key.rpartition("/")
    if not name:
        raise InputError(f"{uri} names no object", hint="Use s3://bucket/key", subject=uri)
    return open_store(f"s3://{bucket}/{folder}".rstrip("/"), access.s3), name


def downloads_dir(cache_dir: Path | None) -> Path:
    """Return the folder for downloaded sources."""
    return (cache_dir or Path("~/.cache/persona-pruner").expanduser()) / "downloads"


def fetch_object(store: Store, name: str, local: Path) -> None:
    """Download an object unless `local` is a copy of its present version.

    Raises:
        ObjectNotFoundError: the object does not exist.
    """
    stat = store.stat(name)
    if stat is None:
        raise ObjectNotFoundError(f"{store.describe(name)} does not exist")
    marker = local.with_name(f"{local.name}.etag")
    version = f"{stat.etag} {stat.size}"
    try:
        if local.stat().st_size == stat.size and marker.read_text() == version:
            return
    except OSError:
        pass
    download(store, name, local, size=stat.size)
    try:
        marker.write_text(version)
    except OSError as error:
        raise store_error(error, action="write", subject=str(marker)) from error


def builtin_file(uri: str, name: str) -> Path:
    """Return the packaged data file behind `builtin://general`.

    Raises:
        InputError: no built-in set has this name.
    """
    if uri != "builtin://general":
        raise InputError(
            f"There is no built-in set {uri[:200]!r}", hint="Use builtin://general", subject=uri
        )
    return Path(str(files("persona_jobs").joinpath("data", name)))


def read_text(path: Path) -> str:
    """Return a UTF-8 text file's content without its byte-order mark.

    Raises:
        InputError: the file is not UTF-8.
        StoreError: the file can't be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise store_error(error, action="read", subject=str(path)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"Line {line} of {path} is not UTF-8", hint="Save the file as UTF-8", subject=str(path)
        ) from None


def json_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the records of a JSON array or of JSON lines with their number (position or line).

    A file that starts with `[` is one JSON array; any other file is read line by line, and blank
    lines are skipped.

    Raises:
        InputError: the JSON is malformed; the message names the line.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        try:
            array = _parse(text)
        except ValueError as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise _malformed(path, line, error) from None
        yield from enumerate(array, 1)
        return
    for number, line_text in enumerate(text.split("\n"), 1):
        if line_text.strip():
            try:
                yield number, _parse(line_text)
            except ValueError as error:
                raise _malformed(path, number, error) from None


def json_object(path: Path) -> dict[str, Any]:
    """Return the one JSON object that a file contains.

    Raises:
        InputError: the JSON is malformed or not an object.
    """
    try:
        value = _parse(read_text(path))
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise _malformed(path, line, error) from None
    if not isinstance(value, dict):
        raise InputError(
            f"{path} does not contain a JSON object",
            hint="Write one JSON object",
            subject=str(path),
        )
    return value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _malformed(path: Path, line: int, error: ValueError) -> InputError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return InputError(
        f"Line {line} of {path} is malformed JSON ({reason})",
        hint="Correct this line",
        subject=str(path),
    )
