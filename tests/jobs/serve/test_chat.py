import asyncio
import json
import logging
import threading

import httpx
import pytest
import torch

from persona_jobs.serve.app import Service, ServiceOptions, create_app
from persona_jobs.serve.engine import Engine
from persona_jobs.serve.models import ModelSource
from persona_jobs.serve.scheduler import Limits
from support.serving import MODEL, PERSONA, serving
from support.tiny import tiny_model

URL = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Who are you?"}]


def body(**fields):
    return {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 24, **fields}


def events(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def chunks(response):
    data = events(response)
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


def content_of(parts):
    return "".join(c["delta"].get("content", "") for part in parts for c in part["choices"])


def directly(tokenizer, turns, limit, model=None):
    """Return the library's own greedy answer: (ids of the prompt, ids of the answer)."""
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([prompt])
    out = (model or tiny_model()).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
    )
    return prompt, out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("stream", [False, True])
async def test_greedy_answer_equals_the_library_s_own(client, tokenizer, stream):
    prompt, answer = directly(tokenizer, HELLO, 24)
    expected = tokenizer.decode(answer, skip_special_tokens=True)
    ended = answer[-1] == tokenizer.eos_token_id
    response = await client.post(
        URL, json=body(stream=stream, stream_options={"include_usage": True} if stream else None)
    )
    assert response.status_code == 200
    if stream:
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = chunks(response)
        content = content_of(parts)
        usage, last = parts[-1]["usage"], parts[-2]
        assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
        assert len({part["id"] for part in parts}) == 1
        finish = last["choices"][0]["finish_reason"]
    else:
        answered = response.json()
        content = answered["choices"][0]["message"]["content"]
        usage, finish = answered["usage"], answered["choices"][0]["finish_reason"]
        assert answered["model"] == MODEL
    # Random weights generate bytes that are no characters: only valid ones are compared.
    assert content.replace("\ufffd", "") == expected.replace("\ufffd", "")
    assert finish == ("stop" if ended else "length")
    assert usage == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(answer),
        "total_tokens": len(prompt) + len(answer),
    }


async def test_later_turns_reuse_the_kv_cache_without_changing_the_answer(client, tokenizer):
    first = (await client.post(URL, json=body())).json()["choices"][0]["message"]["content"]
    turns = [
        *HELLO,
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And where do you sail?"},
    ]
    for conversation in (turns, HELLO, turns):
        prompt, answer = directly(tokenizer, conversation, 24)
        response = (await client.post(URL, json=body(messages=conversation))).json()
        assert response["usage"]["prompt_tokens"] == len(prompt)
        assert response["usage"]["completion_tokens"] == len(answer)
        expected = tokenizer.decode(answer, skip_special_tokens=True)
        content = response["choices"][0]["message"]["content"]
        assert content.replace("\ufffd", "") == expected.replace("\ufffd", "")


async def test_the_persona_is_the_default_system_prompt_and_a_request_can_replace_it(
    client, tokenizer
):
    persona = [{"role": "system", "content": PERSONA}, *HELLO]
    other = [{"role": "system", "content": "Be brief."}, *HELLO]

    async def counted(turns):
        answer = (await client.post(URL, json=body(messages=turns))).json()
        return answer["usage"]["prompt_tokens"], answer["choices"][0]["message"]["content"]

    assert await counted(HELLO) == await counted(persona)
    tokens, _ = await counted(other)
    assert tokens == len(directly(tokenizer, other, 1)[0]) != (await counted(HELLO))[0]
    developer = [{"role": "developer", "content": "Be brief."}, *HELLO]
    assert await counted(developer) == await counted(other)


async def test_an_end_of_turn_token_ends_the_answer(tokenizer):
    model = tiny_model()
    end = directly(tokenizer, HELLO, 3, model)[1][2]
    model.generation_config.eos_token_id = [end]
    async with serving(Engine(model, tokenizer)) as client:
        answer = (await client.post(URL, json=body())).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_and_is_dropped(client, stream):
    whole = (await client.post(URL, json=body())).json()["choices"][0]["message"]["content"]
    stop = whole[5:7]
    response = await client.post(URL, json=body(stop=[stop, "never comes"], stream=stream))
    if stream:
        parts = chunks(response)
        content, finish = content_of(parts), parts[-1]["choices"][0]["finish_reason"]
    else:
        choice = response.json()["choices"][0]
        content, finish = choice["message"]["content"], choice["finish_reason"]
    assert content == whole[: whole.index(stop)]
    assert finish == "stop"


async def test_the_seed_determines_a_sampled_answer(client):
    async def answer(**fields):
        response = await client.post(URL, json=body(temperature=1.5, **fields))
        return response.json()["choices"][0]["message"]["content"]

    first = await answer(seed=7)
    assert await answer(seed=7) == first
    assert await answer(seed=-8) != first
    # Without a seed each answer is sampled anew, even after one with a seed.
    assert len({await answer(), await answer(), await answer()}) == 3


@pytest.mark.parametrize(
    "setting",
    [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 1.5}],
)
async def test_penalties_change_the_answer(client, setting):
    plain = (await client.post(URL, json=body())).json()["choices"][0]["message"]["content"]
    other = await client.post(URL, json=body(**setting))
    assert other.json()["choices"][0]["message"]["content"] != plain


async def test_an_unknown_model_is_not_found(client):
    response = await client.post(URL, json=body(model="other"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_a_conversation_that_is_too_long_is_refused(tokenizer):
    async with serving(Engine(tiny_model(), tokenizer, max_context_tokens=128)) as client:
        response = await client.post(
            URL, json=body(messages=[{"role": "user", "content": "x" * 500}])
        )
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert "128" in error["message"]


async def test_a_body_that_is_malformed_or_too_large_is_refused(engine):
    async with serving(engine, max_body_bytes=1000) as client:
        bad = await client.post(URL, content=b"{not json")
        large = await client.post(URL, json=body(user="x" * 1000))
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_json")
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


async def test_models_and_probes_are_answered_and_unknown_routes_refused(client):
    models = (await client.get("/v1/models")).json()
    assert [card["id"] for card in models["data"]] == [MODEL]
    assert models["data"][0]["max_model_len"] == 2048
    assert (await client.get(f"/v1/models/{MODEL}")).json() == models["data"][0]
    assert (await client.get("/v1/models/other")).json()["error"]["code"] == "model_not_found"
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    missing = await client.get("/v2/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"
    wrong = await client.get(URL)
    assert wrong.status_code == 405
    assert set(wrong.json()["error"]) == {"message", "type", "param", "code"}
    schema = (await client.get("/openapi.json")).json()
    assert URL in schema["paths"]


async def test_the_server_is_not_ready_until_the_model_is_loaded(engine):
    gate = threading.Event()

    def load():
        gate.wait(30)
        return engine

    service = Service([ModelSource(MODEL, load)], ServiceOptions())
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        preparing = asyncio.create_task(service.prepare())
        await asyncio.sleep(0)
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        refused = await client.post(URL, json=body())
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        gate.set()
        await preparing
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post(URL, json=body())).status_code == 200
        service.stop_soon()
        assert (await client.get("/readyz")).status_code == 503


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [
        ("float32", "Give the server more memory, or set --dtype to BFloat16"),
        ("bfloat16", "Give the server more memory"),
    ],
)
async def test_running_out_of_memory_during_the_load_is_reported(dtype, hint):
    failures = []

    def load():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    options = ServiceOptions(dtype=dtype)
    models = [ModelSource(MODEL, load)]
    service = Service(models, options, on_failure=lambda: failures.append(True))
    await service.prepare()
    assert failures == [True]
    assert type(service.failure).__name__ == "OutOfMemoryError"
    assert service.failure.hint == hint


def gate(engine, permits):
    """Make the model wait for a permit before each step."""

    def wait(_module, _args):
        assert permits.acquire(timeout=30)

    engine.model.model.register_forward_pre_hook(wait)


async def until(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def sample(client, name):
    for line in (await client.get("/metrics")).text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


async def test_a_full_queue_refuses_requests_without_blocking_the_event_loop(tokenizer):
    engine = Engine(tiny_model(), tokenizer)
    async with serving(engine, limits=Limits(batch=1, queue=2)) as client:
        permits = threading.Semaphore(0)
        gate(engine, permits)
        scheduler = client.service.served[MODEL].scheduler
        running = [asyncio.create_task(client.post(URL, json=body(max_tokens=2)))]
        await until(lambda: scheduler.active == 1)
        running += [
            asyncio.create_task(client.post(URL, json=body(max_tokens=2))) for _ in range(2)
        ]
        await until(lambda: scheduler.active == 3)
        refused = await client.post(URL, json=body())
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert (await client.get("/healthz")).status_code == 200
        assert await sample(client, "persona_serving_queue_depth") == 2
        assert await sample(client, "persona_serving_requests_running") == 1
        permits.release(10_000)
        assert [(await task).status_code for task in running] == [200] * 3
        assert (await client.post(URL, json=body(max_tokens=2))).status_code == 200
        assert await sample(client, "persona_serving_queue_depth") == 0


async def test_stopping_ends_requests_with_an_error(tokenizer):
    engine = Engine(tiny_model(), tokenizer)
    async with serving(engine, limits=Limits(batch=1)) as client:
        permits = threading.Semaphore(3)
        gate(engine, permits)
        scheduler = client.service.served[MODEL].scheduler
        # The first token's text reaches the client, so its stream has begun with status 200.
        streamed = asyncio.create_task(client.post(URL, json=body(stream=True)))
        await until(lambda: permits._value == 0)
        waiting = asyncio.create_task(client.post(URL, json=body()))
        await until(lambda: scheduler.active == 2)
        client.service.abort_requests()
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopping")
        permits.release(10_000)
        response = await streamed
        if response.status_code == 200:
            assert json.loads(events(response)[-1])["error"]["code"] == "server_stopping"
        else:
            assert response.status_code == 503
        assert (await client.post(URL, json=body())).status_code == 503


def failing(engine, error):
    """Make the model raise an error; returns how to end that."""

    def fail(_module, _args):
        raise error

    return engine.model.model.register_forward_pre_hook(fail).remove


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 503, "out_of_memory"),
        (RuntimeError("some cause"), 500, None),
    ],
)
async def test_a_failed_generation_has_its_own_status(tokenizer, error, status, code, stream):
    engine = Engine(tiny_model(), tokenizer)
    async with serving(engine) as client:
        repair = failing(engine, error)
        response = await client.post(URL, json=body(stream=stream))
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
        assert "some cause" not in response.text
        repair()
        assert (await client.post(URL, json=body())).status_code == 200
        assert (await client.get("/healthz")).status_code == 200


async def test_a_broken_device_fails_the_liveness_probe(tokenizer):
    engine = Engine(tiny_model(), tokenizer)
    async with serving(engine) as client:
        failing(engine, torch.AcceleratorError("CUDA error: device-side assert triggered"))
        assert (await client.post(URL, json=body())).status_code == 500
        assert (await client.get("/healthz")).status_code == 503


async def test_metrics_count_requests_tokens_and_times(client):
    answer = (await client.post(URL, json=body())).json()
    await client.post(URL, json=body(stream=True))
    await client.post(URL, json=body(model="other"))
    prefix = "persona_serving_"
    assert await sample(client, prefix + 'requests_total{status="200"}') == 2
    assert await sample(client, prefix + 'requests_total{status="404"}') == 1
    usage = answer["usage"]
    assert await sample(client, prefix + "prompt_tokens_sum") == 2 * usage["prompt_tokens"]
    assert await sample(client, prefix + "completion_tokens_sum") == 2 * usage["completion_tokens"]
    for name in ("time_to_first_token", "time_per_output_token", "queue_wait", "request_duration"):
        assert await sample(client, f"{prefix}{name}_seconds_count") == 2
        assert await sample(client, f"{prefix}{name}_seconds_sum") > 0
    assert await sample(client, prefix + "ready") == 1


async def test_logs_contain_no_text_of_prompt_or_answer(client, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "a-very-private-question"
    turns = [{"role": "user", "content": secret}]
    answer = await client.post(URL, json=body(messages=turns))
    await client.post(URL, json=body(messages=turns, stream=True))
    await client.post(URL, json=body(messages=[{"role": secret, "content": secret}]))
    await client.post(URL, json=body(messages=turns, temperature=secret))
    assert "prompt_tokens=" in caplog.text
    assert secret not in caplog.text
    assert answer.json()["choices"][0]["message"]["content"] not in caplog.text
