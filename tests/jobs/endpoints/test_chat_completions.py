import json

import pytest

from persona_jobs.dataset import Message
from persona_jobs.endpoints.base import ChatAnswer
from persona_jobs.endpoints.chat_completions import (
    Dialect,
    payload,
    read_completion,
)
from support.endpoint import completion

MESSAGES = (Message(role="system", content="You are Flint."), Message(role="user", content="Hi ☠"))


def sent(dialect: Dialect) -> dict[str, object]:
    body = payload(
        dialect, MESSAGES, model="m", seed=7, temperature=0.5, max_tokens=99, top_logprobs=0
    )
    decoded: dict[str, object] = json.loads(body)
    return decoded


def test_payload() -> None:
    assert sent(Dialect()) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You are Flint."},
            {"role": "user", "content": "Hi ☠"},
        ],
        "max_tokens": 99,
        "seed": 7,
        "temperature": 0.5,
    }


def test_payload_without_what_the_endpoint_refuses() -> None:
    body = sent(Dialect("max_completion_tokens", seed=False, temperature=False, system_role=False))
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "You are Flint.\n\nHi ☠"}],
        "max_completion_tokens": 99,
    }


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            Dialect(token_limit="max_completion_tokens"),
        ),
        ("Extra inputs are not permitted: seed", Dialect(seed=False)),
        (
            "Unsupported value: 'temperature' does not support 0.7 with this model.",
            Dialect(temperature=False),
        ),
        ("System role not supported", Dialect(system_role=False)),
        ("The model is overloaded with joy", None),
    ],
)
def test_dialect_is_learned_from_error_messages(refusal: str, expected: Dialect | None) -> None:
    assert Dialect().adapted(refusal) == expected


def test_learning_ends() -> None:
    refusal = "max_completion_tokens, system role, seed and temperature: all wrong"
    dialect: Dialect | None = Dialect()
    for _ in range(4):
        assert dialect is not None
        dialect = dialect.adapted(refusal)
    assert dialect == Dialect("max_completion_tokens", False, False, False)
    assert dialect.adapted(refusal) is None


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (completion("Arr!"), ChatAnswer("Arr!", "complete")),
        (completion("Arr", None), ChatAnswer("Arr", "complete")),
        (completion("Arr, I", "length"), ChatAnswer("Arr, I", "truncated")),
        # A reasoning model that ran out of tokens before its answer.
        (completion(None, "length"), ChatAnswer("", "truncated")),
        (completion(None), ChatAnswer("", "complete")),
        (completion("", "content_filter"), ChatAnswer("", "refused")),
        (completion(None, refusal="I can't."), ChatAnswer("", "refused")),
        (
            completion([{"type": "text", "text": "Arr"}, {"type": "text", "text": "!"}]),
            ChatAnswer("Arr!", "complete"),
        ),
        ({"choices": []}, None),
        ({"choices": None}, None),
        ({"choices": [{"text": "old completions API"}]}, None),
        (completion(42), None),
        ({}, None),
        ([], None),
    ],
)
def test_read_completion(body: object, answer: ChatAnswer | None) -> None:
    assert read_completion(json.dumps(body).encode()) == answer


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b"\xff\xfe", b'{"choices": [{"mess', b"[" * 100_000]
)
def test_garbage_is_no_completion(body: bytes) -> None:
    assert read_completion(body) is None
