"""Reading of request bodies: limits on the size and the time of each, and on the memory of all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from .api_errors import ApiError

SMALL_BODY = 64 * 2**10
"""Bytes of a body that do not count, so that large bodies never keep small ones out."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and dropped: most clients read no answer before."""


class BodyReader:
    """The reader of all request bodies of a server.

    Args:
        max_bytes: size limit of one body.
        max_total_bytes: limit of what is held of all large bodies together.
        seconds: time limit of one body.
    """

    def __init__(self, *, max_bytes: int, max_total_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._seconds = seconds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body, which counts until the block ends.

        Raises:
            ApiError: 413 if the body is too large, 408 if it takes too long, 429 if too many large
                bodies are being read.
        """
        body = bytearray()
        try:
            await self._fill(body, request)
            yield bytes(body)
        finally:
            self._drop(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        refusal: ApiError | None = None
        try:
            async with asyncio.timeout(self._seconds) as limit:
                async for chunk in self._chunks(request):
                    if refusal is None and (refusal := self._take(body, chunk)):
                        self._drop(body)
                        limit.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)
        except TimeoutError:
            refusal = refusal or ApiError(
                408,
                f"The request body did not arrive within {self._seconds:g} s. Send it again.",
                code="request_timeout",
                closes=True,
            )
        if refusal is not None:
            raise refusal

    async def _chunks(self, request: Request) -> AsyncIterator[bytes | None]:
        """Yield the body's chunks, after None if its declared length is above the limit."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            yield None
        async for chunk in request.stream():
            yield chunk

    def _take(self, body: bytearray, chunk: bytes | None) -> ApiError | None:
        """Add a chunk to the body, or return why it is refused."""
        length = self._max_bytes + 1 if chunk is None else len(body) + len(chunk)
        if length > self._max_bytes:
            return ApiError(
                413,
                f"The request body is longer than {self._max_bytes} bytes. Shorten it.",
                code="request_too_large",
                closes=True,
            )
        more = _counted(length) - _counted(len(body))
        if more and self._held + more > self._max_total_bytes:
            return ApiError(
                429,
                "Too many large requests are arriving. Try again later.",
                code="too_many_large_requests",
                retry_after=1,
                closes=True,
            )
        self._held += more
        body += chunk or b""
        return None

    def _drop(self, body: bytearray) -> None:
        self._held -= _counted(len(body))
        body.clear()


def _counted(length: int) -> int:
    """Return the bytes of a body that count."""
    return length if length > SMALL_BODY else 0
