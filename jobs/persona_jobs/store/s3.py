"""A store in an S3 bucket: MinIO, AWS, or anything else that speaks S3."""

import io
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from ..errors import StoreError
from .base import (
    ByteReader,
    ObjectChangedError,
    ObjectNotFoundError,
    ObjectStat,
    Store,
    TransferInterruptedError,
    validate_path,
)
from .certificates import certificate_hint
from .files import store_error
from .options import S3Options
from .s3_client import CredentialsError, ambient_credentials, make_client

PART_BYTES = 16 << 20
READ_BYTES = 64 << 10  # at most this much is lost when a connection breaks
READ_ATTEMPTS = 3
_MISSING = {"NoSuchKey", "NoSuchObject", "ResourceNotFound"}
_NO_BATCH_DELETE = {"NotImplemented", "MethodNotAllowed", "InvalidRequest", "MalformedXML"}
_HINTS = {
    "NoSuchBucket": "Create the bucket or correct its name",
    "AccessDenied": "Check the credentials, and that they may list, get, put and delete in it",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY (and AWS_REGION)",
    "ExpiredToken": "Renew AWS_SESSION_TOKEN",
    "InvalidToken": "Renew AWS_SESSION_TOKEN",
    "AuthorizationHeaderMalformed": "Set AWS_REGION to the bucket's region",
    "PermanentRedirect": "Set AWS_REGION and the endpoint to the bucket's own",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "XMinioStorageFull": "Free some space on the S3 server",
    "QuotaExceeded": "Free some space in the bucket or raise its quota",
}
_CREDENTIALS_REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}

logger = logging.getLogger(__name__)


class S3Store(Store):
    """A store whose objects are below `prefix` of `bucket`."""

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._secrets = [
            secret
            for secret in (options.secret_key, options.session_token, options.access_key)
            if secret
        ]
        credentials = None if options.access_key else ambient_credentials(options)
        self._anonymous = options.access_key is None and credentials is None
        self._endpoint, self._client = make_client(options, credentials)
        self._ambient = credentials is not None
        self._ca_bundle = options.ca_bundle
        self._prefix = options.prefix
        self._bucket_seen = False

    def read_bytes(self, path: str) -> bytes:
        """Return a whole object."""
        for attempt in range(READ_ATTEMPTS):
            try:
                with self.open_range(path, 0, None) as body:
                    return b"".join(iter(lambda: body.read(1 << 20), b""))
            except TransferInterruptedError:
                if attempt == READ_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def write_bytes(self, path: str, data: bytes) -> ObjectStat:
        """Create or replace an object; S3 puts are atomic."""
        return self._put(path, io.BytesIO(data), len(data))

    def upload(self, path: str, local: Path) -> ObjectStat:
        """Send a local file, in parts of 16 MiB if it is larger than that."""
        try:
            with local.open("rb") as handle:
                return self._put(path, handle, os.fstat(handle.fileno()).st_size)
        except OSError as error:
            raise store_error(error, action="read", subject=str(local)) from error

    def stat(self, path: str) -> ObjectStat | None:
        """Return the size and ETag of an object, None if it does not exist."""
        try:
            with self._errors("read", path):
                found = self._client.stat_object(self.bucket, self._name(path))
        except ObjectNotFoundError:
            self._require_bucket(path)
            return None
        self._bucket_seen = True
        return ObjectStat(size=int(found.size or 0), etag=_etag(found.etag))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield all objects below the folder `prefix`, in the server's order."""
        folder = self._folder(prefix)
        skip = len(self._folder(""))
        with self._errors("list", prefix):
            for item in self._client.list_objects(self.bucket, prefix=folder, recursive=True):
                name = item.object_name or ""
                if not item.is_dir and not name.endswith("/"):
                    yield name[skip:]

    def delete(self, path: str) -> None:
        """Remove an object."""
        with self._errors("delete", path, missing_ok=True):
            self._client.remove_object(self.bucket, self._name(path))

    def delete_prefix(self, prefix: str) -> None:
        """Remove all objects below a folder, a thousand with each request.

        They are removed one by one where the server has no requests for many.
        """
        validate_path(prefix)
        paths = list(self.list(prefix))
        doomed = [DeleteObject(self._name(path)) for path in paths]
        with self._errors("delete", prefix):
            try:
                failures = list(self._client.remove_objects(self.bucket, doomed))
            except (S3Error, ServerError, InvalidResponseError) as error:
                if isinstance(error, S3Error) and error.code not in _NO_BATCH_DELETE:
                    raise
                logger.info("%s deletes no objects in batches: %s", self._endpoint, error)
                failures = []
                for path in paths:
                    self.delete(path)
            for failure in failures:
                raise StoreError(
                    f"Can't delete {self.describe(prefix)}: {failure.code}",
                    hint=_HINTS.get(failure.code or "", "Check the S3 server and run again"),
                )

    @contextmanager
    def open_range(self, path: str, offset: int, etag: str | None) -> Iterator[ByteReader]:
        """Open an object at `offset`; the server checks that its ETag is still `etag`."""
        headers: dict[str, str] = {"If-Match": f'"{etag}"'} if etag else {}
        with self._errors("read", path):
            response = self._client.get_object(
                self.bucket, self._name(path), offset=offset, request_headers=headers
            )
        try:
            if etag and _etag(response.headers.get("etag")) not in {etag, None}:
                raise self._changed(path)  # some servers ignore If-Match
            body = _Body(response, self.describe(path))
            if offset and not response.headers.get("content-range", "").startswith(
                f"bytes {offset}-"
            ):
                body.skip(offset)  # some servers ignore ranges
            yield body
        finally:
            response.close()
            response.release_conn()

    def _put(self, path: str, body: Any, length: int) -> ObjectStat:
        with self._errors("write", path):
            result = self._client.put_object(
                self.bucket, self._name(path), body, length, part_size=PART_BYTES
            )
        return ObjectStat(size=length, etag=_etag(result.etag))

    def _name(self, path: str) -> str:
        validate_path(path)
        return f"{self.prefix}/{path}" if self.prefix else path

    def _folder(self, prefix: str) -> str:
        parts = [part for part in (self.prefix, validate_path(prefix) if prefix else "") if part]
        return "/".join(parts) + "/" if parts else ""

    def _require_bucket(self, path: str) -> None:
        """Raise an error if the bucket is missing: a HEAD request answers 404 as for an object."""
        if self._bucket_seen:
            return
        with self._errors("read", path):
            try:
                exists = self._client.bucket_exists(self.bucket)
            except S3Error as error:
                if error.code != "AccessDenied":  # may read objects, but not ask for the bucket
                    raise
                exists = True
        if not exists:
            raise self._refused("read", path, "NoSuchBucket", "")
        self._bucket_seen = True

    @contextmanager
    def _errors(self, action: str, path: str, *, missing_ok: bool = False) -> Iterator[None]:
        """Turn what the client and the network raise into `StoreError`."""
        try:
            yield
        except S3Error as error:
            code = error.code or "unknown error"
            if code in _MISSING:
                if missing_ok:
                    return
                raise ObjectNotFoundError(
                    f"{self.describe(path)} does not exist",
                    hint="Run the stage that creates it again",
                ) from None
            if code == "PreconditionFailed":
                raise self._changed(path) from None
            raise self._refused(action, path, code, error.message or "") from None
        except InvalidResponseError as error:
            raise StoreError(
                f"Can't {action} {self.describe(path)}: {self._endpoint} does not answer like an "
                f"S3 server ({self._redact(str(error))[:160]})",
                hint="Check the endpoint URL",
            ) from None
        except ServerError as error:
            raise self._refused(action, path, f"HTTP {error.status_code}", "") from None
        except CredentialsError as error:
            raise StoreError(
                f"Can't {action} {self.describe(path)}: the credentials can't be fetched: {error}",
                hint="Check the service that gives out the credentials (AWS_* variables)",
                subject=self.url,
            ) from None
        except (HTTPError, ssl.SSLError) as error:
            self._unreachable(action, path, error)
        except ValueError as error:
            raise StoreError(
                f"Can't {action} {self.describe(path)}: {self._redact(str(error))[:200]}",
                hint="Check the bucket, the endpoint and the credentials",
            ) from None
        except MinioException as error:
            raise StoreError(
                f"Can't {action} {self.describe(path)}: {self._redact(str(error))[:200]}",
                hint="Check the bucket, the endpoint and the credentials",
            ) from None

    def _changed(self, path: str) -> ObjectChangedError:
        return ObjectChangedError(
            f"{self.describe(path)} was replaced while it was being read", hint="Run again"
        )

    def _refused(self, action: str, path: str, code: str, message: str) -> StoreError:
        target = f"bucket {self.bucket}" if code == "NoSuchBucket" else self.describe(path)
        detail = f" ({self._redact(message).rstrip('.')[:160]})" if message else ""
        hint = _HINTS.get(code, "Check the S3 server and run again")
        if self._ambient and code in _CREDENTIALS_REFUSED:
            hint = "Check the service or the file that gives out the credentials"
        if self._anonymous and code != "NoSuchBucket":
            hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and check the S3 server"
        return StoreError(
            f"Can't {action} {target} at {self._endpoint}: {code}{detail}",
            hint=hint.replace("AWS_", f"{self._prefix}AWS_"),
            subject=self.url,
        )

    def _unreachable(self, action: str, path: str, error: Exception) -> NoReturn:
        reason: BaseException = error
        if isinstance(error, MaxRetryError) and error.reason is not None:
            reason = error.reason
        if "WRONG_VERSION_NUMBER" in str(reason).upper().replace(" ", "_"):
            raise StoreError(
                f"Can't {action} {self.describe(path)}: {self._endpoint} does not speak TLS",
                hint="Use http:// in the endpoint URL, or the server's TLS port",
                subject=self.url,
            ) from None
        if isinstance(reason, SSLError | ssl.SSLError):
            raise StoreError(
                f"Can't {action} {self.describe(path)}: the certificate of {self._endpoint} is "
                f"not trusted ({self._redact(str(reason))[:160]})",
                hint=certificate_hint(
                    str(reason),
                    variable="AWS_CA_BUNDLE",
                    bundle=self._ca_bundle,
                    address="the endpoint URL",
                ),
                subject=self.url,
            ) from None
        raise StoreError(
            f"Can't {action} {self.describe(path)}: {self._endpoint} can't be reached "
            f"({type(reason).__name__})",
            hint="Check that the S3 server is running and that the endpoint URL is right",
            subject=self.url,
        ) from None

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _Body:
    """The body of an object, read from the network as it arrives."""

    def __init__(self, response: Any, subject: str) -> None:
        self._response = response
        self._subject = subject

    def read(self, size: int, /) -> bytes:
        try:
            return bytes(self._response.read(min(size, READ_BYTES)))
        except (HTTPError, OSError) as error:
            raise TransferInterruptedError(
                f"The connection broke while {self._subject} was being read "
                f"({type(error).__name__})",
                hint="Check the S3 server and run again",
            ) from None

    def skip(self, count: int) -> None:
        while count and (chunk := self.read(min(count, 1 << 20))):
            count -= len(chunk)


def _etag(value: str | None) -> str | None:
    return value.strip('"') if value else None
