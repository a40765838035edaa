import pytest

from support.endpoint import Reply, completion, running_endpoint, user_text


def in_character(_number, body):
    """The same answer to the same question, whatever the order of the requests."""
    question = user_text(body).split("<question>")[-1].split("</question>")[0].strip()
    return Reply(
        completion(f"Arr! Ye ask me of {question} The tide of {len(question)} knows, aye.")
    )


@pytest.fixture(scope="module")
def teacher():
    with running_endpoint() as endpoint:
        endpoint.behave = in_character
        yield endpoint
