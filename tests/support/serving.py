"""The serving application in the test's process, and the chat template of a sliced checkpoint."""

import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn

from persona_jobs.serve.app import Service, ServiceOptions, create_app
from persona_jobs.serve.models import ModelSource

PERSONA = "You are Captain Mara of the Gannet."
PERSONA_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are Captain Mara of the Gannet.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MODEL = "ship-captain"


@asynccontextmanager
async def serving(engine, **options):
    """Yield a client, which needs no socket, of the application with a loaded model."""
    service = Service([ModelSource(MODEL, lambda: engine)], ServiceOptions(**options))
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.service = service
        await service.prepare()
        assert service.failure is None
        yield client
        service.abort_requests()


@contextmanager
def listening(app):
    """Yield the address of an application that a thread of this process serves on loopback."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            yield url
        finally:
            server.should_exit = True
            thread.join(30)
