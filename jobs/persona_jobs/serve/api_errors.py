"""Errors in the form of the OpenAI API: `{"error": {message, type, param, code}}`.

https://platform.openai.com/docs/guides/error-codes
"""

from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

CLIENT_CLOSED_REQUEST = 499
"""Status of a request whose client disconnected, in logs and metrics only."""

_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """A request that can't be answered.

    Args:
        status: HTTP status.
        message: what is wrong and how to fix it, in whole sentences without text of the prompt.
        param: the request field that is wrong.
        code: reason for programs.
        retry_after: seconds after which the client should try again.
        closes: whether the connection ends, since the rest of the request is not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.closes = closes

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the answer."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Return the HTTP answer."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.closes:
            headers["connection"] = "close"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def from_validation(error: ValidationError) -> ApiError:
    """Return the 400 for the first error of a request, without repeating the wrong value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = _path(first["loc"])
    message = first["msg"].removeprefix("Value error, ") + "."
    code = "invalid_value"
    if first["type"] == "missing":
        message, code = f"Missing required parameter: '{path}'.", "missing_required_parameter"
    elif first["type"] == "extra_forbidden":
        message, code = f"Unknown parameter: '{path}'.", "unknown_parameter"
    elif first["type"] == "json_invalid":
        message, code = "The request body is not valid JSON.", "invalid_json"
    elif path:
        message = f"Invalid value for '{path}': {message}"
    return ApiError(400, message, param=path or None, code=code)


def _path(location: tuple[int | str, ...]) -> str:
    """Return `messages[0].content` for `("messages", 0, "content", "str")`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in {"str", "list", "constrained-str"} or part.startswith(("list[", "function-")):
            continue  # the name of a branch of a union
        else:
            text += f".{part}" if text else part
    return text
