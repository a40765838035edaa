"""The chat page in a real browser, talking to the real server."""

import json
import time
from contextlib import ExitStack

import httpx
import openai
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, StreamingResponse

from persona_jobs.serve.app import Service, ServiceOptions, create_app
from persona_jobs.serve.engine import Engine
from persona_jobs.serve.models import ModelSource
from persona_jobs.serve.page import ChatPage
from support.browser import PROGRAM, Browser
from support.serving import MODEL, listening
from support.tiny import tiny_model

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not on PATH")

DONE = "!!document.querySelector('.again')"
TEXTS = "[...document.querySelectorAll('.text')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def model():
    """A model whose answers never end by themselves."""
    model = tiny_model(max_position_embeddings=65536)
    model.lm_head.weight.data[model.config.eos_token_id] = 0
    model.generation_config.eos_token_id = model.config.eos_token_id
    return model


@pytest.fixture(scope="module")
def served(model, tokenizer):
    """Serve the model; yields a function that starts it with options and returns its address."""
    running = ExitStack()

    def start(*names, **options):
        names = names or (MODEL,)
        models = [ModelSource(name, lambda: Engine(model, tokenizer)) for name in names]
        service = Service(models, ServiceOptions(**{"default_max_tokens": 40, **options}))
        url = running.enter_context(listening(create_app(service)))
        deadline = time.monotonic() + 60
        while httpx.get(url + "/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return url

    with running:
        yield start


@pytest.fixture(scope="module")
def url(served):
    return served()


def running_requests(url):
    lines = httpx.get(url + "/metrics").text.splitlines()
    (found,) = [line for line in lines if line.startswith("persona_serving_requests_running ")]
    return float(found.split()[1])


def ask(page, text):
    page.wait("document.title !== 'Chat'")
    page.type(text)
    page.press("Enter")


def test_an_answer_is_streamed_and_the_next_turn_knows_it(browser, url):
    page = browser.open(url)
    assert page.wait(
        "document.title === 'ship-captain' && document.querySelector('h1').textContent"
    )
    assert page.run("document.activeElement.id") == "question"
    page.run(
        "window.sent = []; const real = window.fetch;"
        "window.fetch = (path, options) => {"
        " if (options.body) sent.push(JSON.parse(options.body)); return real(path, options); }"
    )
    page.run(
        "window.growth = []; new MutationObserver(() => growth.push("
        "document.querySelector('.text')?.textContent.length ?? 0)"
        ").observe(document.body, {subtree: true, characterData: true, childList: true})"
    )
    ask(page, "Where are we bound?")
    page.wait(DONE)
    (first,) = page.run(TEXTS)
    assert len(set(page.run("growth"))) > 10  # it came in pieces
    ask(page, "And then?")
    page.wait(f"{DONE} && {TEXTS}.length === 2")
    assert page.run(TEXTS)[0] == first
    assert page.run("sent[1].messages") == [
        {"role": "user", "content": "Where are we bound?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And then?"},
    ]
    assert {body["model"] for body in page.run("sent")} == {MODEL}
    assert page.problems() == []


def test_stop_ends_the_request_and_keeps_the_text(browser, served):
    url = served(default_max_tokens=60_000)
    page = browser.open(url)
    for end in (lambda: page.press("Escape"), lambda: page.click("#stop")):
        ask(page, "Tell me everything.")
        page.wait(f"{TEXTS}.at(-1)?.length > 20 && !document.querySelector('#stop').hidden")
        end()
        page.wait(DONE)
        deadline = time.monotonic() + 30
        while running_requests(url):
            assert time.monotonic() < deadline
        (length,) = page.run(TEXTS + ".slice(-1).map(t => t.length)")
        assert length > 20
        assert page.run("[...document.querySelectorAll('.note')].at(-1).textContent") == "Stopped"
        assert page.run("document.querySelector('#stop').hidden")
        assert page.run("document.activeElement.id") == "question"
    page.press("Tab")
    assert page.problems() == []


def test_regenerate_replaces_the_last_answer_only(browser, url):
    page = browser.open(url)
    for number, question in enumerate(("One", "Two"), 1):
        ask(page, question)
        page.wait(f"{DONE} && {TEXTS}.length === {number}")
    before = page.run(TEXTS)
    assert page.run("document.querySelectorAll('.again').length") == 1
    page.click(".again")
    page.wait(f"{DONE} && {TEXTS}[1] !== {json.dumps(before[1])}")
    after = page.run(TEXTS)
    assert after[0] == before[0]
    assert len(after) == 2
    assert after[1] != before[1]
    page.click("#new")
    assert page.run(TEXTS) == []
    assert page.run("document.querySelector('#empty').hidden") is False


def test_enter_with_shift_and_empty_messages_send_nothing(browser, url):
    page = browser.open(url)
    page.wait("document.title !== 'Chat'")
    page.press("Enter")
    page.type("one")
    page.press("Enter", shift=True)
    page.type("two")
    assert page.run("document.querySelector('#question').value") == "one\ntwo"
    assert page.run(TEXTS) == []
    page.press("Enter")
    page.wait(DONE)
    assert page.run("document.querySelector('.question').textContent") == "one\ntwo"


def test_two_browsers_and_the_openai_client_talk_at_the_same_time(browser, served):
    url = served(default_max_tokens=20_000)  # three of them fit the memory for conversations
    with Browser() as other:
        pages = [browser.open(url), other.open(url)]
        for page in pages:
            ask(page, "Tell me everything.")
        for page in pages:
            page.wait(f"{TEXTS}[0]?.length > 0")
        api = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        answer = api.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=5
        )
        assert answer.usage.completion_tokens == 5
        assert running_requests(url) == 2  # both pages are still being answered
        for page in pages:
            length = page.run(f"{TEXTS}[0].length")
            page.wait(f"{TEXTS}[0].length > {length}")
            page.press("Escape")
            page.wait(DONE)


def test_an_api_key_is_asked_for(browser, served):
    page = browser.open(served(api_keys=("secret-key",)))
    page.wait("!document.querySelector('#key-form').hidden")
    for key, title in (("wrong", "Chat"), ("secret-key", MODEL)):
        page.wait("document.activeElement.id === 'key'")
        page.type(key)
        page.press("Enter")
        page.wait(f"document.title === '{title}'")
        time.sleep(0.2)
    ask(page, "Hello")
    page.wait(DONE)
    assert len(page.run(TEXTS)[0]) > 0


def test_an_error_is_shown_and_its_question_not_repeated(browser, served):
    url = served(max_body_bytes=500)
    page = browser.open(url)
    ask(page, "x" * 600)
    page.wait(DONE)
    note = page.run("document.querySelector('.note.error').textContent")
    assert note.startswith("The request body is longer than")
    ask(page, "short")  # fits only without the question that was refused
    page.wait(f"{DONE} && {TEXTS}.length === 2")
    assert page.run("document.querySelectorAll('.note.error').length") == 1
    assert len(page.run(TEXTS)[1]) > 0


@pytest.mark.parametrize("width", [390, 1100])
def test_two_models_answer_side_by_side(browser, served, width):
    dense = MODEL + "-dense"
    page = browser.open(served(MODEL, dense), width=width)
    for number, question in enumerate(("One", "Two"), 1):
        ask(page, question)
        page.wait(f"{DONE} && {TEXTS}.length === {2 * number}")
    names = page.run("[...document.querySelectorAll('.name')].map(e => e.textContent)")
    assert names == [MODEL, dense] * 2
    assert all(page.run(TEXTS))
    boxes = page.run(
        "[...document.querySelectorAll('.answer')].slice(0, 2)"
        ".map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])"
    )
    if width == 1100:
        assert boxes[0][2] <= boxes[1][0]
        assert boxes[0][1] == boxes[1][1]
    else:
        assert boxes[0][3] <= boxes[1][1]
        assert boxes[0][0] == boxes[1][0]
    assert page.run("document.documentElement.scrollWidth") <= width
    before = page.run(TEXTS)
    page.click(".again")
    changed = " && ".join(f"{TEXTS}[{at}] !== {json.dumps(before[at])}" for at in (2, 3))
    page.wait(f"{DONE} && {changed}")
    assert page.run(TEXTS)[:2] == before[:2]


HOSTILE = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"


def stub(name, answer):
    """An application with the page whose model is called `name` and always says `answer`."""
    app = FastAPI()
    app.add_api_route("/", ChatPage().answer)
    app.add_api_route("/v1/models", lambda: JSONResponse({"data": [{"id": name}]}))

    async def chat():
        events = [{"choices": [{"delta": {"content": answer}}]}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]))

    app.add_api_route("/v1/chat/completions", chat, methods=["POST"])
    return app


def test_text_is_never_read_as_html(browser):
    with listening(stub(HOSTILE, HOSTILE)) as url:
        page = browser.open(url)
        ask(page, HOSTILE)
        page.wait(DONE)
        assert page.run(TEXTS) == [HOSTILE]
        assert page.run("document.querySelector('.question').textContent") == HOSTILE
        assert page.run("document.title") == HOSTILE
        assert page.run("document.querySelectorAll('img, script').length") == 1  # its own script
        assert page.problems() == []


def test_the_policy_blocks_foreign_scripts_styles_and_requests(browser):
    with listening(stub("a", "b")) as url:
        page = browser.open(url)
        page.run("const s = document.createElement('style'); s.textContent = 'body{color:red}';"
                 "document.head.append(s)")  # fmt: skip
        assert page.run("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
        with pytest.raises(RuntimeError, match="TrustedHTML"):
            page.run("document.body.innerHTML = '<b>x</b>'")
        with pytest.raises(RuntimeError, match="Failed to fetch"):
            page.run(f"fetch('{url.replace('127.0.0.1', 'localhost')}/v1/models')")
        assert any("Content Security Policy" in problem for problem in page.problems())


@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_fits_the_screen(browser, url, width):
    page = browser.open(url, width=width)
    for number, question in enumerate(("Short", "w" * 500, "line\n" * 60), 1):
        ask(page, question)
        page.wait(f"{DONE} && {TEXTS}.length === {number}")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelector('#log').scrollWidth") <= width
    assert page.run("document.documentElement.scrollHeight") <= 800
    # The end of the conversation is in view.
    assert page.run("document.querySelector('.again').getBoundingClientRect().bottom") < 800
    heights = page.run("[...document.querySelectorAll('button')].map(b => b.offsetHeight)")
    assert min(height for height in heights if height) >= 44  # large enough for a thumb


def test_both_color_schemes_have_contrast(browser, url):
    script = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    colors = {}
    for dark in (False, True):
        text, back = browser.open(url, dark=dark).run(script)
        colors[dark] = [sum(map(int, color[4:-1].split(", "))) for color in (text, back)]
    assert colors[False][0] < 150 < 700 < colors[False][1]
    assert colors[True][1] < 150 < 600 < colors[True][0]
