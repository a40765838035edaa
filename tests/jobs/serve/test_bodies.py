"""Bodies that are large, slow or many, against a server with a socket."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import uvicorn

from persona_jobs.serve.app import Service, ServiceOptions, create_app
from persona_jobs.serve.models import ModelSource
from support.serving import MODEL

KIB = 2**10


@asynccontextmanager
async def listening(engine, **options):
    """Yield the port of a server."""
    service = Service([ModelSource(MODEL, lambda: engine)], ServiceOptions(**options))
    config = uvicorn.Config(
        create_app(service), host="127.0.0.1", port=0, lifespan="on", log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    for _ in range(3000):
        if server.started and service.served:
            break
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


def body(length=0):
    request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "user": ""}
    padding = max(0, length - len(json.dumps(request)))
    return json.dumps({**request, "user": "u" * padding}).encode()


async def begin(port, data, length=None):
    """Send a request's head and a part of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\n"
        f"content-type: application/json\r\ncontent-length: {length or len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def answer(connection):
    """Return status, headers and the JSON object of an answer."""
    reader, writer = connection
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    data = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(head[0].split()[1]), headers, json.loads(data)


async def test_a_body_that_does_not_arrive_in_time_is_refused(engine):
    async with listening(engine, body_seconds=0.3) as port:
        status, headers, refused = await answer(await begin(port, body()[:-1], len(body())))
        assert (status, refused["error"]["code"]) == (408, "request_timeout")
        assert headers["connection"] == "close"
        assert (await answer(await begin(port, body())))[0] == 200


async def test_a_body_that_is_declared_too_large_is_refused_before_it_arrives(engine):
    async with listening(engine, max_body_bytes=100 * KIB) as port:
        status, headers, refused = await answer(await begin(port, b"{", 101 * KIB))
        assert (status, refused["error"]["code"]) == (413, "request_too_large")
        assert headers["connection"] == "close"


@pytest.mark.parametrize("ends", ["finishes", "leaves"])
async def test_half_sent_large_bodies_are_bounded_and_keep_no_small_one_out(engine, ends):
    async with listening(engine, max_total_body_bytes=450 * KIB) as port:
        large = body(200 * KIB)
        held = [await begin(port, large[:-1], len(large)) for _ in range(2)]
        await asyncio.sleep(0.3)
        status, headers, refused = await answer(await begin(port, large))
        assert (status, refused["error"]["code"]) == (429, "too_many_large_requests")
        assert headers["retry-after"] == "1"
        assert (await answer(await begin(port, body(60 * KIB))))[0] == 200
        for _, writer in held:
            if ends == "finishes":
                writer.write(large[-1:])
            else:
                writer.close()
        if ends == "finishes":
            assert [(await answer(connection))[0] for connection in held] == [200, 200]
        else:
            await asyncio.sleep(0.3)
        assert [(await answer(await begin(port, large)))[0] for _ in range(3)] == [200] * 3
