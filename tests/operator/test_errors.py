"""Which answers of the API server are retried."""

import pytest

from persona_operator.errors import ApiRefusedError, ApiUnavailableError, api_error


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
def test_transient_errors_are_retried(status: int) -> None:
    error = api_error(status, {"message": "later"}, "GET /x", "7")
    assert isinstance(error, ApiUnavailableError)
    assert error.delay == 7


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_refused_requests_are_not_retried(status: int) -> None:
    error = api_error(status, {"message": "no", "reason": "Forbidden"}, "GET /x")
    assert isinstance(error, ApiRefusedError)
    assert (error.status, error.reason) == (status, "Forbidden")
    assert "GET /x: no" in str(error)
