import pytest

from support.endpoint import in_character, running_endpoint


@pytest.fixture(scope="module")
def teacher():
    with running_endpoint() as endpoint:
        endpoint.behave = in_character
        yield endpoint
