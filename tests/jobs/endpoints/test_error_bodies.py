import json
from typing import Any

import pytest

from persona_jobs.endpoints.error_bodies import read_error
from support.endpoint import completion

EXTRA = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs", "input": 1}
INNER = json.dumps({"error": {"message": "no seed", "code": 400}})


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "bad", "code": "c", "type": "t"}}, "bad", "c"),
        ({"error": {"message": "bad", "type": "t"}}, "bad", "t"),
        ({"error": "bad"}, "bad", ""),
        ({"detail": "bad"}, "bad", ""),
        ({"detail": [{"loc": ["body", "seed"]}]}, '[{"loc": ["body", "seed"]}]', ""),
        ({"message": "bad"}, "bad", ""),
        ({"error": {"message": "a\x1b[31m\nb\u202e"}}, "a [31m b", ""),
        ({"error": {"message": 7, "code": 400}}, "7", "400"),
        ({"error": {"code": "c"}}, "c", "c"),
        ({"error": {"other": 1}}, '{"other": 1}', ""),
        # FastAPI, and Mistral, which wraps its form
        ({"detail": [EXTRA]}, "body.seed: Extra inputs", "extra_forbidden"),
        (
            {"object": "error", "message": {"detail": [EXTRA]}, "type": "invalid", "code": None},
            "body.seed: Extra inputs",
            "extra_forbidden",
        ),
        # Gemini
        ([{"error": {"code": 400, "message": "bad", "status": "INVALID"}}], "bad", "400"),
        # OpenAI with a message that names no field
        ({"error": {"message": "bad argument", "param": "seed"}}, "bad argument (seed)", ""),
        ({"error": {"message": "bad seed", "param": "seed"}}, "bad seed", ""),
        # Proxies: LiteLLM and OpenRouter
        ({"error": {"message": f"XError: {INNER}", "param": "None"}}, "XError: no seed", ""),
        ({"detail": {"error": "bad"}}, "bad", ""),
        (
            {"error": {"message": "Provider error", "code": 400, "metadata": {"raw": INNER}}},
            "Provider error: no seed",
            "400",
        ),
        # Others
        ({"error": "Bad Request", "message": "no seed", "status": 400}, "no seed", "400"),
        ({"errors": [{"code": 7, "message": "a"}, {"message": "b"}]}, "a; b", "7"),
        ({"title": "Bad Request", "detail": "bad", "status": 400}, "bad", "400"),
    ],
)
def test_the_message_is_found_wherever_it_stands(body: object, message: str, code: str) -> None:
    error = read_error(json.dumps(body).encode())
    assert error is not None
    assert (error.message, error.code) == (message, code)


def test_long_messages_are_cut_but_searched_as_a_whole() -> None:
    error = read_error(json.dumps({"error": "x" * 1_000 + " Seed"}).encode())
    assert error is not None
    assert len(error.message) == 201
    assert error.text.split()[-1] == "seed"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>502</html>", b"\xff\xfe", b'{"choices": [{"mess', b"[" * 100_000, b"[]", b"[1]"],
)
def test_garbage_is_no_error(body: bytes) -> None:
    assert read_error(body) is None


def test_deep_nesting_is_an_error_all_the_same() -> None:
    document: Any = "deep"
    for _ in range(50):
        document = {"error": document}
    assert read_error(json.dumps(document).encode()) is not None


def test_a_completion_is_no_error() -> None:
    assert read_error(json.dumps(completion("Arr")).encode()) is None


@pytest.mark.parametrize(
    ("message", "attribute"),
    [
        ("litellm.ContentPolicyViolationError: refused", "content_filter"),
        ("Your prompt was flagged as potentially violating our usage policy", "content_filter"),
        ("litellm.ContextWindowExceededError: too long", "context_length"),
        (
            "The input token count (9) exceeds the maximum number of tokens allowed (8)",
            "context_length",
        ),
        ("API key not valid. Please pass a valid API key.", "wrong_key"),
    ],
)
def test_the_kind_of_error_is_recognized(message: str, attribute: str) -> None:
    error = read_error(json.dumps([{"error": {"message": message, "code": 400}}]).encode())
    assert error is not None
    kinds = ("content_filter", "context_length", "wrong_key")
    assert [kind for kind in kinds if getattr(error, kind)] == [attribute]
