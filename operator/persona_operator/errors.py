"""Errors of the operator. They inherit kopf's, so kopf retries or gives up accordingly."""

from typing import Any

import kopf

RETRY_SECONDS = 10.0
_TRANSIENT_STATUS = frozenset({0, 408, 409, 423, 425, 429})
_SERVER_ERROR = 500


class OperatorError(Exception):
    """Base of all expected errors."""


class RemovalPendingError(OperatorError, kopf.TemporaryError):
    """The artifacts of a deleted PersonaModel can't be removed yet."""

    def __init__(self, message: str, *, delay: float = RETRY_SECONDS) -> None:
        super().__init__(message, delay=delay)


class ApiUnavailableError(OperatorError, kopf.TemporaryError):
    """The API server can't be reached or asks the operator to try again later."""

    def __init__(self, message: str, *, delay: float = RETRY_SECONDS) -> None:
        super().__init__(message, delay=delay)


class ApiRefusedError(OperatorError, kopf.PermanentError):
    """The API server refuses a request, and would refuse the same request again.

    Args:
        message: the API server's message.
        status: HTTP status.
        reason: the API server's reason, such as `Forbidden` or `Invalid`.
    """

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason


class NameTakenError(ApiRefusedError):
    """An object of that name exists and isn't the operator's."""

    def __init__(self, kind: str, name: str) -> None:
        message = (
            f"{kind} {name} exists already and isn't the operator's. Remove or rename it, or give "
            "the PersonaModel another name."
        )
        super().__init__(message, status=409, reason="NameTaken")


def api_error(status: int, body: Any, what: str, retry_after: str | None = None) -> OperatorError:
    """Return the error for an answer of the API server with an error status.

    Args:
        status: HTTP status, 0 where there was no answer.
        body: the decoded `Status` object, or text.
        what: the request, for the message.
        retry_after: the `Retry-After` header in seconds.
    """
    details = body if isinstance(body, dict) else {"message": str(body)}
    text = f"{what}: {details.get('message') or f'HTTP {status}'}"
    if status in _TRANSIENT_STATUS or status >= _SERVER_ERROR:
        delay = float(retry_after) if retry_after and retry_after.isdigit() else RETRY_SECONDS
        return ApiUnavailableError(text, delay=delay)
    return ApiRefusedError(text, status=status, reason=str(details.get("reason") or status))
