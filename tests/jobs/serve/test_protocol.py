import json

import pytest
from pydantic import ValidationError

from persona_jobs.errors import InputError
from persona_jobs.serve.api_errors import ApiError, from_validation
from persona_jobs.serve.prompt import build
from persona_jobs.serve.protocol import AnswerMessage, ChatRequest, Message

HELLO = [{"role": "user", "content": "hello"}]
SECRET = "the-user's-secret"


def error_of(**fields):
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json(json.dumps({"messages": HELLO, **fields}))
    return from_validation(caught.value)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": SECRET}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": SECRET}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": SECRET}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 3}, None),
        ({"max_tokens": 10**300}, "max_tokens"),
        ({"top_k": 10**300}, "top_k"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty"),
        ({"temperature": float("nan")}, "temperature"),
        ({"presence_penalty": float("inf")}, "presence_penalty"),
        ({"frequency_penalty": float("-inf")}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"typo": 1}, "typo"),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
def test_the_wrong_field_of_a_request_is_named_without_its_value(fields, param):
    error = error_of(**fields)
    assert error.status == 400
    assert error.param == param
    assert SECRET not in error.message
    assert error.body()["error"]["type"] == "invalid_request_error"
    if param:
        assert param in error.message


OPTIONAL = sorted(set(ChatRequest.model_fields) - {"messages"})


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("unset", [None, "", [], {}], ids=["null", "text", "list", "object"])
def test_an_optional_field_that_is_null_or_empty_is_not_set(name, unset):
    body = json.dumps({"messages": HELLO, name: unset})
    plain = ChatRequest.model_validate_json(json.dumps({"messages": HELLO}))
    assert ChatRequest.model_validate_json(body) == plain


def test_zero_and_false_are_set():
    request = ChatRequest.model_validate_json(
        json.dumps({"messages": HELLO, "temperature": 0, "seed": 0, "presence_penalty": 0.0})
    )
    assert (request.temperature, request.seed, request.presence_penalty) == (0, 0, 0)


def test_null_or_empty_options_of_a_stream_are_not_set():
    options = {"include_usage": None, "include_obfuscation": ""}
    body = json.dumps({"messages": HELLO, "stream": True, "stream_options": options})
    request = ChatRequest.model_validate_json(body)
    assert request.stream_options is not None
    assert request.stream_options.include_usage is False


def test_the_servers_own_answer_can_be_sent_back_as_a_turn():
    answer = AnswerMessage(content="Ahoy!").model_dump()
    turn = {**answer, "tool_calls": [], "function_call": None, "audio": None, "name": ""}
    request = ChatRequest.model_validate_json(json.dumps({"messages": [*HELLO, turn]}))
    assert request.messages[1] == Message(role="assistant", content="Ahoy!")


@pytest.mark.parametrize("body", ["", "{", '{"messages": [}', '"\\ud800"', "[]", "null"])
def test_bodies_that_are_no_json_object_are_refused(body):
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json(body)
    assert from_validation(caught.value).status == 400


def test_missing_messages_are_named():
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json("{}")
    error = from_validation(caught.value)
    assert (error.param, error.code) == ("messages", "missing_required_parameter")


def test_settings_that_clients_send_by_default_are_accepted():
    request = ChatRequest.model_validate(
        {
            "messages": HELLO,
            "n": 1,
            "logprobs": False,
            "logit_bias": {},
            "tools": [],
            "tool_choice": "none",
            "response_format": {"type": "text"},
            "modalities": ["text"],
            "user": "u",
            "metadata": {"a": "b"},
            "store": False,
            "stream": None,
            "stop": None,
            "temperature": None,
        }
    )
    assert request.stop_strings == ()
    assert request.token_limit is None


def test_max_completion_tokens_replaces_max_tokens():
    request = ChatRequest(messages=HELLO, max_tokens=5, max_completion_tokens=7)
    assert request.token_limit == 7


def messages(*texts):
    return [Message(role="user", content=text) for text in texts]


def one_token_per_character(turns):
    return [ord(c) for turn in turns for c in turn["content"]]


def built(text, **settings):
    options = {"token_limit": None, "default_limit": 50, "max_context_tokens": 20, **settings}
    return build(messages(text), one_token_per_character, **options)


def test_the_answer_gets_the_room_that_is_left():
    assert built("x" * 8).max_new_tokens == 12
    assert built("x" * 8, default_limit=5).max_new_tokens == 5
    assert built("x" * 8, token_limit=12).max_new_tokens == 12
    assert built("x" * 19).max_new_tokens == 1


@pytest.mark.parametrize(
    ("length", "limit", "counts"),
    [(20, None, ("20",)), (25, 1, ("25",)), (8, 13, ("8", "13", "21", "12"))],
)
def test_a_conversation_that_is_too_long_is_refused_with_its_token_counts(length, limit, counts):
    with pytest.raises(ApiError) as caught:
        built("x" * length, token_limit=limit)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert all(count in error.message for count in ("20", *counts))


def test_a_conversation_of_too_many_characters_is_refused_before_it_is_tokenized():
    def render(turns):
        raise AssertionError("tokenized")

    with pytest.raises(ApiError) as caught:
        build(
            messages("x" * 300, "y" * 21), render,
            token_limit=None, default_limit=5, max_context_tokens=20,
        )  # fmt: skip
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert "321 characters" in caught.value.message
    assert "at most 320" in caught.value.message


def test_text_parts_are_joined_and_the_developer_role_becomes_system():
    seen = []

    def render(turns):
        seen.extend(turns)
        return [1]

    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [Message(role="developer", content="d"), Message(role="user", content=parts)]
    build(turns, render, token_limit=None, default_limit=5, max_context_tokens=20)
    assert seen == [{"role": "system", "content": "d"}, {"role": "user", "content": "ab"}]


def test_messages_that_the_chat_template_refuses_are_a_wrong_request():
    def render(turns):
        raise InputError("the template refuses the messages: roles must alternate")

    with pytest.raises(ApiError, match="roles must alternate") as caught:
        build(messages("a", "b"), render, token_limit=None, default_limit=5, max_context_tokens=9)
    assert caught.value.status == 400
