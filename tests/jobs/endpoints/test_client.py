import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from persona_jobs.api.endpoint import TEACHER_KEY_VARIABLE
from persona_jobs.api.endpoint import Endpoint as EndpointSettings
from persona_jobs.dataset import Message
from persona_jobs.endpoints import ChatAnswer, ChatRequest
from persona_jobs.endpoints.backoff import Backoff
from persona_jobs.endpoints.client import MAX_RESPONSE_BYTES, ApiKey, ChatEndpoint, api_key
from persona_jobs.errors import EndpointError, InputError
from support.endpoint import Body, Endpoint, Reply, completion, error, running_endpoint, user_text

KEY = "sk-secret-0123456789"
QUICK = Backoff(base=0.001, longest=0.01, longest_asked=0.3)
GOOD = "Arr, matey!"


def requests(count: int) -> list[ChatRequest]:
    return [
        ChatRequest(
            (
                Message(role="system", content="You are Flint."),
                Message(role="user", content=f"Question {index}"),
            ),
            seed=index,
        )
        for index in range(count)
    ]


def teacher(endpoint: Endpoint | None = None, **settings: Any) -> ChatEndpoint:
    url = endpoint.url if endpoint else "http://127.0.0.1:9/v1"
    values: dict[str, Any] = {
        "base_url": url,
        "model": "big-model",
        "max_concurrency": 4,
        "timeout_seconds": 10,
        "max_retries": 3,
    }
    own = {name: settings.pop(name) for name in set(values) & set(settings)}
    key = ApiKey(TEACHER_KEY_VARIABLE, settings.pop("api_key", KEY))
    return ChatEndpoint(
        EndpointSettings.model_construct(**{**values, **own}),
        subject="spec.teacher.openAI",
        key=key,
        temperature=0.7,
        max_tokens=50,
        backoff=QUICK,
        **settings,
    )


def ask(
    asked: ChatEndpoint, count: int = 6, answered: frozenset[int] = frozenset()
) -> dict[int, ChatAnswer]:
    answers: dict[int, ChatAnswer] = {}
    reported = Counter[str]()
    for some in asked.answer(
        requests(count),
        answered=answered,
        should_stop=lambda: False,
        on_answer=lambda: reported.update(["answer"]),
    ):
        assert not set(some) & set(answers)
        answers.update(some)
    assert reported["answer"] == len(answers)
    return answers


def failing_first(times: int, bad: Reply) -> Any:
    """Each question gets the bad reply so often, and then a good one."""
    seen: Counter[str] = Counter()

    def behave(_: int, body: Body) -> Reply:
        seen[user_text(body)] += 1
        return bad if seen[user_text(body)] <= times else Reply(completion(GOOD))

    return behave


def test_answers_belong_to_their_requests(endpoint: Endpoint) -> None:
    endpoint.behave = lambda _, body: Reply(completion(f"To {user_text(body)}"))
    answers = ask(teacher(endpoint), 20)
    assert answers == {i: ChatAnswer(f"To Question {i}", "complete") for i in range(20)}


def test_what_is_sent(endpoint: Endpoint) -> None:
    ask(teacher(endpoint), 1)
    [(path, headers, body)] = endpoint.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "big-model"
    assert body["max_tokens"] == 50
    assert body["temperature"] == 0.7
    assert body["seed"] == 0
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_base_url_with_a_slash_and_a_query(endpoint: Endpoint) -> None:
    ask(teacher(base_url=f"{endpoint.url}/?api-version=2"), 1)
    assert endpoint.requests[0][0] == "/v1/chat/completions?api-version=2"


def test_without_a_key_none_is_sent(endpoint: Endpoint) -> None:
    ask(teacher(endpoint, api_key=None), 1)
    assert "Authorization" not in endpoint.requests[0][1]


def test_answered_requests_are_not_sent_again(endpoint: Endpoint) -> None:
    answers = ask(teacher(endpoint), 6, answered=frozenset({0, 2, 5}))
    assert set(answers) == {1, 3, 4}
    assert {user_text(body) for body in endpoint.bodies} == {f"Question {i}" for i in (1, 3, 4)}


def test_nothing_to_ask(endpoint: Endpoint) -> None:
    assert ask(teacher(endpoint), 3, answered=frozenset(range(3))) == {}
    assert endpoint.requests == []


def test_concurrency_is_used_and_bounded(endpoint: Endpoint) -> None:
    both = threading.Barrier(3)

    def behave(_: int, body: Body) -> Reply:
        both.wait(timeout=10)  # passes only when three requests are in flight
        return Reply(completion(GOOD))

    endpoint.behave = behave
    answers = ask(teacher(endpoint, max_concurrency=3), 9)
    assert {a.text for a in answers.values()} == {GOOD}
    assert endpoint.most_in_flight == 3


@pytest.mark.parametrize(
    "bad",
    [
        error(429, "slow down"),
        error(500, "oops"),
        Reply(b"<html>Bad gateway</html>", 502),
        error(503, "overloaded"),
        error(408, "too slow"),
        Reply(b"<html>a login page</html>"),
        Reply(b"\xff\xfe\x00"),
        Reply(b"[" * 100_000),
        Reply({"choices": []}),
        Reply({"error": {"message": "upstream failed"}}),
        Reply(completion(GOOD), promise=100_000),
        Reply(b"", promise=10),
    ],
    ids=lambda bad: f"{bad.status}-{str(bad.body)[:20]}-{bad.promise}",
)
def test_temporary_failures_are_retried(endpoint: Endpoint, bad: Reply) -> None:
    endpoint.behave = failing_first(2, bad)
    assert ask(teacher(endpoint), 4) == {i: ChatAnswer(GOOD, "complete") for i in range(4)}
    assert len(endpoint.requests) == 12


def test_hanging_request_times_out_and_is_retried(endpoint: Endpoint) -> None:
    endpoint.behave = failing_first(1, Reply(hang=True))
    answers = ask(teacher(endpoint, timeout_seconds=0.3), 2)
    assert answers == {i: ChatAnswer(GOOD, "complete") for i in range(2)}


def test_retry_after_delays_all_requests(endpoint: Endpoint) -> None:
    times: list[float] = []

    def behave(number: int, body: Body) -> Reply:
        times.append(time.monotonic())
        if number == 0:
            return Reply({"error": "wait"}, 429, {"Retry-After": "0.25"})
        return Reply(completion(GOOD))

    endpoint.behave = behave
    ask(teacher(endpoint, max_concurrency=1), 3)
    assert len(times) == 4
    assert times[1] - times[0] >= 0.25


def test_no_more_attempts_than_allowed(endpoint: Endpoint) -> None:
    endpoint.behave = lambda _, body: (
        error(500, "broken for this one")
        if user_text(body) == "Question 1"
        else Reply(completion(GOOD))
    )
    answers = ask(teacher(endpoint, max_retries=2), 4)
    assert answers[1] == ChatAnswer("", "failed", "HTTP 500: broken for this one")
    assert sum(answer.text == GOOD for answer in answers.values()) == 3
    assert sum(user_text(body) == "Question 1" for body in endpoint.bodies) == 3


def test_too_large_response_is_refused_without_a_retry(endpoint: Endpoint) -> None:
    endpoint.behave = lambda _, body: (
        Reply(completion("a" * (MAX_RESPONSE_BYTES + 1)))
        if user_text(body) == "Question 0"
        else Reply(completion(GOOD))
    )
    answers = ask(teacher(endpoint), 3)
    assert answers[0] == ChatAnswer("", "failed", "the response is larger than 4 MiB")
    assert len(endpoint.requests) == 3


def test_each_kind_of_ending_is_recognized(endpoint: Endpoint) -> None:
    replies = {
        "Question 0": Reply(completion(None, "content_filter")),
        "Question 1": Reply(completion("Once upon", "length")),
        "Question 2": Reply(completion(None)),
        "Question 3": error(400, "filtered", code="content_filter"),
        "Question 4": error(400, "maximum context length is 8192", code="context_length_exceeded"),
    }
    endpoint.behave = lambda _, body: replies[user_text(body)]
    answers = ask(teacher(endpoint), 5)
    assert [answers[i].ending for i in range(5)] == [
        "refused",
        "truncated",
        "complete",
        "refused",
        "tooLong",
    ]


def test_endpoint_that_always_fails_is_given_up_soon(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: error(500, "dead")
    with pytest.raises(EndpointError, match=r"keeps failing.*HTTP 500: dead") as raised:
        ask(teacher(endpoint, max_retries=1), 100)
    assert "spec.teacher.openAI" in str(raised.value)
    assert len(endpoint.requests) < 30


def test_refused_connection_is_a_temporary_failure() -> None:
    with pytest.raises(EndpointError, match="connection failed"):
        ask(teacher(None, max_retries=1), 10)


def test_unknown_host_is_a_temporary_failure() -> None:
    with pytest.raises(EndpointError, match=r"nowhere\.invalid"):
        ask(teacher(base_url="http://nowhere.invalid/v1", max_retries=0), 10)


def test_wrong_key(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: error(401, f"Incorrect API key provided: {KEY}.")
    with pytest.raises(InputError) as raised:
        ask(teacher(endpoint), 20)
    text = str(raised.value)
    assert "OPENAI_API_KEY" in text
    assert "spec.teacher.openAI.apiKeySecretRef" in text
    assert "Incorrect API key provided: [key]." in text
    assert KEY not in text
    assert len(endpoint.requests) <= 4


def test_wrong_key_as_gemini_reports_it(endpoint: Endpoint) -> None:
    error_object = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    endpoint.behave = lambda *_: Reply([{"error": error_object}], 400)
    with pytest.raises(InputError, match=r"OPENAI_API_KEY was refused .*API key not valid"):
        ask(teacher(endpoint))


@pytest.mark.parametrize(
    "refused",
    [
        {"object": "error", "message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra"}]}},
        [{"error": {"code": 400, "message": 'Unknown name "seed"', "status": "INVALID"}}],
        {"error": {"message": "Unrecognized argument", "param": "seed", "code": None}},
        {"error": {"message": "litellm.UnsupportedParamsError: " + "x" * 300 + " ['seed']"}},
    ],
)
def test_refused_seed_in_the_style_of(endpoint: Endpoint, refused: object) -> None:
    endpoint.behave = lambda _, body: (
        Reply(refused, 400) if "seed" in body else Reply(completion(GOOD))
    )
    answers = ask(teacher(endpoint), 6)
    expected = ChatAnswer(GOOD, "complete", sent_without=("seed",))
    assert answers == dict.fromkeys(range(6), expected)


def test_missing_key(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: error(401, "who are you?")
    with pytest.raises(InputError, match="no API key was sent"):
        ask(teacher(endpoint, api_key=None))


def test_forbidden(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: Reply(b"nope", 403)
    with pytest.raises(InputError, match=r"HTTP 403.*OPENAI_API_KEY"):
        ask(teacher(endpoint))


def test_wrong_address_or_model(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: error(404, "The model does not exist")
    with pytest.raises(InputError, match=r"'big-model' was not found.*Check baseURL"):
        ask(teacher(endpoint))


def test_redirect_is_not_followed(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: Reply(b"", 307, {"Location": "http://example.com/v1"})
    with pytest.raises(InputError, match=r"spec\.teacher\.openAI\.baseURL.*redirects"):
        ask(teacher(endpoint))


def test_requests_that_are_all_refused(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: error(400, "max_tokens must be at most 16")
    with pytest.raises(InputError, match=r"refuses the requests.*at most 16") as raised:
        ask(teacher(endpoint), 50)
    assert raised.value.subject == "spec.teacher.openAI"
    assert len(endpoint.requests) < 20


def test_single_refused_request_is_dropped(endpoint: Endpoint) -> None:
    endpoint.behave = lambda _, body: (
        error(422, "can't tokenize") if "Question 3" in user_text(body) else Reply(completion(GOOD))
    )
    answers = ask(teacher(endpoint), 8)
    assert answers[3] == ChatAnswer("", "failed", "HTTP 422: can't tokenize")
    assert sum(answer.ending == "complete" for answer in answers.values()) == 7


def test_endpoint_with_another_dialect(endpoint: Endpoint) -> None:
    def behave(_: int, body: Body) -> Reply:
        if "max_tokens" in body:
            return error(400, "Use 'max_completion_tokens' instead of 'max_tokens'.")
        if body["messages"][0]["role"] == "system":
            return error(400, "System role not supported")
        if "seed" in body:
            return error(422, "seed: extra fields are not permitted")
        return Reply(completion(user_text(body)))

    endpoint.behave = behave
    answers = ask(teacher(endpoint), 10)
    assert answers[4].text == "You are Flint.\n\nQuestion 4"
    assert {answer.ending for answer in answers.values()} == {"complete"}
    assert {answer.sent_without for answer in answers.values()} == {("systemRole", "seed")}


def test_what_two_requests_were_refused_for_is_not_sent_again(endpoint: Endpoint) -> None:
    endpoint.behave = lambda _, body: (
        error(400, "'temperature' does not support 0.7 with this model")
        if "temperature" in body
        else Reply(completion(GOOD))
    )
    ask(teacher(endpoint, max_concurrency=1), 6)
    assert ["temperature" in body for body in endpoint.bodies] == [
        *(True, False) * 2,
        *(False,) * 4,
    ]


@pytest.mark.parametrize("odd", [0, 3])
@pytest.mark.parametrize(
    ("message", "left_out"),
    [("This system message is malformed", "systemRole"), ("temperature is odd", "temperature")],
)
def test_one_odd_refusal_changes_no_other_request(
    endpoint: Endpoint, odd: int, message: str, left_out: str
) -> None:
    endpoint.behave = lambda number, _: (
        error(400, message) if number == odd else Reply(completion(GOOD))
    )
    answers = ask(teacher(endpoint, max_concurrency=1), 8)
    assert [answers[i].sent_without for i in range(8)] == [
        (left_out,) if i == odd else () for i in range(8)
    ]


def test_a_flagged_prompt_is_refused_and_changes_no_other_request(endpoint: Endpoint) -> None:
    text = "Invalid prompt: this system message was flagged as violating our usage policy"
    endpoint.behave = lambda number, _: error(400, text) if number == 2 else Reply(completion(GOOD))
    answers = ask(teacher(endpoint, max_concurrency=1), 8)
    assert answers[2] == ChatAnswer("", "refused")
    assert len(endpoint.requests) == 8
    assert all(body["messages"][0]["role"] == "system" for body in endpoint.bodies)


def test_a_refused_setting_that_was_accepted_before_stays_in_new_requests(
    endpoint: Endpoint,
) -> None:
    endpoint.behave = lambda number, body: (
        error(400, "seed: not permitted")
        if number >= 4 and number % 2 == 0
        else Reply(completion(GOOD))
    )
    ask(teacher(endpoint, max_concurrency=1), 10)
    seeded = Counter("seed" in body for body in endpoint.bodies)
    assert seeded[True] == 10


def test_stop_abandons_hanging_requests(endpoint: Endpoint) -> None:
    endpoint.behave = lambda number, _: Reply(completion(GOOD)) if number < 3 else Reply(hang=True)
    answers: dict[int, ChatAnswer] = {}
    stream = teacher(endpoint, timeout_seconds=3600).answer(
        requests(50),
        answered=frozenset(),
        should_stop=lambda: len(answers) == 3,
        on_answer=lambda: None,
    )
    for some in stream:
        answers.update(some)
    assert len(answers) == 3
    assert not [t for t in threading.enumerate() if t.name == "teacher"]


def test_closing_the_iterator_ends_the_requests(endpoint: Endpoint) -> None:
    endpoint.behave = lambda number, _: Reply(completion(GOOD)) if number == 0 else Reply(hang=True)
    stream = teacher(endpoint, timeout_seconds=3600).answer(
        requests(9), answered=frozenset(), should_stop=lambda: False, on_answer=lambda: None
    )
    assert len(next(stream)) == 1
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "teacher"]


@pytest.mark.parametrize("url", ["http://", "http:///v1", "http://[broken/v1", "http://h:port/v1"])
def test_malformed_base_url(url: str) -> None:
    with pytest.raises(InputError, match=r"spec\.teacher\.openAI\.baseURL"):
        teacher(base_url=url)


def test_password_in_the_base_url_is_not_shown(endpoint: Endpoint) -> None:
    endpoint.behave = lambda *_: error(404, "nothing here")
    url = endpoint.url.replace("http://", "http://anna:hunter2@")
    with pytest.raises(InputError) as raised:
        ask(teacher(base_url=url))
    assert "hunter2" not in str(raised.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_untrusted_certificate_is_a_permanent_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_endpoint(tls) as endpoint:
        with pytest.raises(InputError, match="SSL_CERT_FILE"):
            ask(teacher(endpoint))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert len(ask(teacher(endpoint))) == 6


def given_key(environment: dict[str, str]) -> str | None:
    return api_key(environment, TEACHER_KEY_VARIABLE, subject="spec.teacher.openAI").value


@pytest.mark.parametrize(
    ("value", "key"), [("", None), ("  ", None), ("sk-1", "sk-1"), ("sk-1\n", "sk-1")]
)
def test_api_key(value: str, key: str | None) -> None:
    assert given_key({"OPENAI_API_KEY": value}) == key
    assert given_key({}) is None


@pytest.mark.parametrize("value", ["sk-1\nsk-2", "sk 1", "sk-ü"])
def test_api_key_that_no_header_can_hold(value: str) -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY") as raised:
        given_key({"OPENAI_API_KEY": value})
    assert value not in str(raised.value)
