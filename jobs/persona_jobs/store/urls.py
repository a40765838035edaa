"""Store URLs."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import InputError
from .base import Store, validate_path
from .options import S3Options

_HINT = "Use file:///absolute/directory or s3://bucket/prefix"


def open_store(url: str, options: S3Options | None = None) -> Store:
    """Open the store at `file:///absolute/directory` or `s3://bucket/prefix`.

    Nothing is read or written yet.

    Args:
        url: where the store is.
        options: how to reach S3; None reads the `AWS_*` environment variables.

    Raises:
        InputError: the URL or the options are wrong.
    """
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme == "file":
        from .file import FileStore

        return FileStore(file_url_path(url))
    if scheme == "s3":
        from .s3 import S3Store

        bucket, prefix = split_s3_url(url)
        return S3Store(bucket, prefix, options or S3Options.from_environment())
    raise InputError(f"The store URL {_shown(url)!r} is neither file:// nor s3://", hint=_HINT)


def file_url_path(url: str) -> Path:
    """Return the absolute path that a `file://` URL names (percent-encoding undone).

    Raises:
        InputError: the URL has a host or a relative path.
    """
    host, slash, path = url.removeprefix("file://").partition("/")
    if host not in {"", "localhost"} or not slash or "\0" in unquote(path):
        raise InputError(
            f"{_shown(url)!r} does not name an absolute path",
            hint="Write three slashes before the path: file:///absolute/path",
        )
    return Path("/" + unquote(path))


def split_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and prefix (without leading and trailing slashes) of an `s3://` URL.

    Raises:
        InputError: the URL names no bucket, or it contains credentials or a query.
    """
    location = url.removeprefix("s3://")
    bucket, _, prefix = location.partition("/")
    if "@" in bucket:
        raise InputError(
            "The s3:// URL contains credentials",
            hint="Remove them, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )
    if not bucket:
        raise InputError(f"{_shown(url)!r} names no bucket", hint=_HINT)
    if "?" in location or "#" in location:
        raise InputError(f"{_shown(url)!r} has a query or a fragment", hint=_HINT)
    prefix = prefix.strip("/")
    if prefix:
        validate_path(prefix)
    return bucket, prefix


def _shown(url: str) -> str:
    """Return the URL, shortened and without anything that may be a password."""
    head, at, tail = url[:200].rpartition("@")
    return f"{head.split('://', maxsplit=1)[0]}://…@{tail}" if at and "://" in head else url[:200]
