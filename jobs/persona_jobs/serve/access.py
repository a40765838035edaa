"""Who may use the API: keys, and the origins of web pages."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.requests import Request

from ..errors import InputError
from .api_errors import ApiError

API_KEY_VARIABLE = "PERSONA_API_KEY"


class ApiKeys:
    """The keys that requests must send one of, as `Authorization: Bearer KEY`.

    Args:
        keys: the accepted keys; without any, every request is accepted.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, request: Request) -> None:
        """Check a request's key in a time that does not depend on the key.

        Raises:
            ApiError: 401 if the key is missing or wrong.
        """
        if not self._digests:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # A header's bytes are read as latin-1.
        sent = _digest(key.strip().encode("latin-1", errors="replace"))
        known = [hmac.compare_digest(sent, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(known):
            what = "Incorrect API key provided" if key else "You didn't provide an API key"
            raise ApiError(
                401,
                f"{what}. Send the server's key in the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: Path | None) -> tuple[str, ...]:
    """Return the keys in a file, one per line, or else that of the variable PERSONA_API_KEY.

    Raises:
        InputError: the file can't be read or has no key.
    """
    if file is None:
        key = os.environ.get(API_KEY_VARIABLE, "").strip()
        return (key,) if key else ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(
            f"The API keys in {file} can't be read: {reason}",
            hint="Set --api-key-file to a file with one key per line",
        ) from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise InputError(
            f"{file} has no API key", hint="Write one key per line, or leave out --api-key-file"
        )
    return keys


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let web pages of these origins use the API (CORS); `*` stands for all origins."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
