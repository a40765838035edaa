import httpx
import openai
import pytest

from persona_jobs.errors import InputError
from persona_jobs.serve.__main__ import parser
from persona_jobs.serve.access import read_keys
from persona_jobs.serve.app import ServiceOptions
from persona_jobs.serve.server import listen
from support.serving import MODEL, serving

KEYS = ("key-one", "schlüssel-zwei")
HELLO = [{"role": "user", "content": "Who are you?"}]
BODY = {"messages": HELLO, "max_tokens": 1}


@pytest.mark.parametrize("key", KEYS)
async def test_requests_with_one_of_the_keys_are_answered(engine, key):
    async with serving(engine, api_keys=KEYS) as client:
        headers = {"authorization": f"Bearer {key}".encode()}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        answer = await client.post("/v1/chat/completions", json=BODY, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", "Bearer key", "Bearer key-one2", "Basic key-one", "key-one"],
)
async def test_requests_without_a_right_key_are_refused(engine, value):
    headers = {} if value is None else {"authorization": value}
    async with serving(engine, api_keys=KEYS) as client:
        for answer in (
            await client.get("/v1/models", headers=headers),
            await client.get(f"/v1/models/{MODEL}", headers=headers),
            await client.post("/v1/chat/completions", json=BODY, headers=headers),
        ):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert "key-one" not in answer.text
        for route in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(route)).status_code == 200
        counted = (await client.get("/metrics")).text
        assert 'persona_serving_requests_total{status="401"} 3.0' in counted


async def test_the_official_client_reports_a_wrong_key(engine):
    async with serving(engine, api_keys=KEYS) as client:
        for key, error in (("wrong", openai.AuthenticationError), (KEYS[0], None)):
            api = openai.AsyncOpenAI(
                base_url="http://test/v1",
                api_key=key,
                max_retries=0,
                http_client=httpx.AsyncClient(transport=client._transport),
            )
            if error:
                with pytest.raises(error):
                    await api.models.list()
            else:
                assert [model.id async for model in api.models.list()] == [MODEL]


def test_keys_come_from_a_file_or_else_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PERSONA_API_KEY", raising=False)
    assert read_keys(None) == ()
    monkeypatch.setenv("PERSONA_API_KEY", " from-environment\n")
    assert read_keys(None) == ("from-environment",)
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert read_keys(file) == ("one", "two")
    file.write_text("\n")
    with pytest.raises(InputError, match="has no API key"):
        read_keys(file)
    with pytest.raises(InputError, match="can't be read"):
        read_keys(tmp_path / "absent")


def test_settings_show_no_key():
    assert "key-one" not in repr(ServiceOptions(api_keys=KEYS))


PREFLIGHT = {
    "origin": "https://chat.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def test_only_pages_of_the_given_origins_may_use_the_api(engine):
    async with serving(engine, api_keys=KEYS, origins=("https://chat.example",)) as client:
        allowed = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
        other = {**PREFLIGHT, "origin": "https://other.example"}
        refused = await client.options("/v1/chat/completions", headers=other)
        assert "access-control-allow-origin" not in refused.headers
        # A page can read why its request was refused.
        wrong = await client.post(
            "/v1/chat/completions", json=BODY, headers={"origin": "https://chat.example"}
        )
        assert wrong.status_code == 401
        assert wrong.headers["access-control-allow-origin"] == "https://chat.example"


async def test_no_other_page_may_use_the_api_by_default(engine):
    async with serving(engine) as client:
        answer = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert "access-control-allow-origin" not in answer.headers


def test_only_this_machine_reaches_the_server_by_default(monkeypatch):
    monkeypatch.delenv("PERSONA_SERVE_HOST", raising=False)
    assert parser().parse_args(["--model", "m"]).host == "127.0.0.1"
    monkeypatch.setenv("PERSONA_SERVE_HOST", "*")
    assert parser().parse_args(["--model", "m"]).host == "*"
    for host, addresses in (("127.0.0.1", {"127.0.0.1"}), ("*", {"::", "0.0.0.0"})):
        with listen(host, 0) as listener:
            assert listener.getsockname()[0] in addresses
