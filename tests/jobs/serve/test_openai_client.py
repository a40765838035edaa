"""The official client of the OpenAI API against the server."""

import math

import httpx
import openai
import pytest
import torch

from persona_jobs.serve.engine import Engine
from support.serving import MODEL, serving
from support.tiny import tiny_model

HELLO = {"role": "user", "content": "Who are you?"}


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
async def api(model, tokenizer):
    async with serving(Engine(model, tokenizer)) as client:
        yield openai.AsyncOpenAI(
            base_url="http://test/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx.AsyncClient(transport=client._transport),
        )


async def answer(api, messages, **fields):
    return await api.chat.completions.create(
        model=MODEL, messages=messages, **{"temperature": 0, "max_tokens": 8, **fields}
    )


@pytest.mark.parametrize(
    "as_turn",
    [lambda message: message, lambda message: message.model_dump(), lambda m: m.to_dict()],
    ids=["object", "model_dump", "to_dict"],
)
async def test_several_turns(api, as_turn):
    messages = [HELLO]
    plain = [HELLO]
    for question in ("And at dawn?", "And at night?"):
        message = (await answer(api, messages)).choices[0].message
        messages += [as_turn(message), {"role": "user", "content": question}]
        plain += [
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": question},
        ]
    last = await answer(api, messages)
    assert last.choices[0].message == (await answer(api, plain)).choices[0].message
    assert last.usage.completion_tokens == 8


async def test_an_answer_without_content_is_a_turn_and_a_question_without_it_is_not(api):
    silent = {"role": "assistant", "content": None, "tool_calls": None}
    empty = {"role": "assistant", "content": ""}
    first = await answer(api, [HELLO, silent, HELLO])
    assert first.usage == (await answer(api, [HELLO, empty, HELLO])).usage
    with pytest.raises(openai.BadRequestError) as caught:
        await answer(api, [{"role": "user", "content": None}])
    assert caught.value.param == "messages[0].content"


async def test_neutral_values_change_nothing(api):
    expected = (await answer(api, [HELLO])).choices[0].message
    parts = {"role": "user", "content": [{"type": "text", "text": HELLO["content"]}]}
    neutral = {
        "n": 1,
        "logit_bias": {},
        "stop": None,
        "tools": [],
        "tool_choice": "none",
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logprobs": False,
        "response_format": {"type": "text"},
        "user": "somebody",
        "seed": None,
        "stream_options": None,
    }
    assert (await answer(api, [parts], **neutral)).choices[0].message == expected
    assert (await answer(api, [HELLO], stop=[])).choices[0].message == expected
    assert (await answer(api, [HELLO], stop="\u2603")).choices[0].message == expected


async def test_a_stream_adds_up_to_the_whole_answer(api):
    whole = await answer(api, [HELLO])
    stream = await answer(api, [HELLO], stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


async def test_errors_are_the_client_s_own(api):
    with pytest.raises(openai.NotFoundError) as missing:
        await api.chat.completions.create(model="other", messages=[HELLO])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await answer(api, [HELLO], temperature=7)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        await answer(api, [HELLO], max_tokens=100_000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        await answer(api, [HELLO], tools=[{"type": "function", "function": {"name": "f"}}])
    assert tools.value.param == "tools"


async def test_models_are_listed(api):
    models = [model.id async for model in api.models.list()]
    assert models == [MODEL]
    assert (await api.models.retrieve(MODEL)).id == MODEL


async def test_logprobs_are_the_model_s_own_log_softmax(api, model, tokenizer):
    whole = await answer(api, [HELLO], logprobs=True, top_logprobs=4)
    entries = whole.choices[0].logprobs.content
    assert len(entries) == 8
    prompt = tokenizer.apply_chat_template([HELLO], add_generation_prompt=True, return_dict=False)
    for entry in entries:
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        likeliest = expected.topk(4)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(
            likeliest.values.tolist(), abs=1e-4
        )
        assert entry.bytes == entry.top_logprobs[0].bytes  # greedy
        assert entry.logprob == pytest.approx(float(likeliest.values[0]), abs=1e-4)
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1 + 1e-6
        prompt = [*prompt, int(likeliest.indices[0])]
    data = b"".join(bytes(entry.bytes) for entry in entries)
    assert data.decode(errors="replace") == whole.choices[0].message.content


async def test_streamed_logprobs_are_those_of_the_whole_answer(api):
    whole = await answer(api, [HELLO], logprobs=True, top_logprobs=2, max_tokens=20)
    stream = await answer(api, [HELLO], logprobs=True, top_logprobs=2, max_tokens=20, stream=True)
    entries = []
    async for chunk in stream:
        if chunk.choices[0].logprobs is not None:
            entries += chunk.choices[0].logprobs.content
    expected = whole.choices[0].logprobs.content
    assert [entry.bytes for entry in entries] == [entry.bytes for entry in expected]
    assert [entry.logprob for entry in entries] == pytest.approx(
        [entry.logprob for entry in expected], abs=1e-4
    )


async def test_without_top_logprobs_only_the_tokens_own_are_given(api):
    whole = await answer(api, [HELLO], logprobs=True)
    assert [entry.top_logprobs for entry in whole.choices[0].logprobs.content] == [[]] * 8
    assert (await answer(api, [HELLO])).choices[0].logprobs is None


async def test_tokens_of_a_stop_string_have_no_logprobs(api):
    whole = await answer(api, [HELLO], max_tokens=30)
    text = whole.choices[0].message.content
    stop = text[5:7]
    cut = await answer(api, [HELLO], max_tokens=30, stop=stop, logprobs=True)
    assert cut.choices[0].message.content == text[: text.index(stop)]
    data = b"".join(bytes(entry.bytes) for entry in cut.choices[0].logprobs.content)
    assert data.decode(errors="replace") == cut.choices[0].message.content
