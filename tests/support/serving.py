"""The serving application in the test's process, and the chat template of a sliced checkpoint."""

from contextlib import asynccontextmanager

import httpx

from persona_jobs.serve.app import Service, ServiceOptions, create_app

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
    service = Service(lambda: engine, ServiceOptions(model=MODEL, **options))
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.service = service
        await service.prepare()
        assert service.failure is None
        yield client
        service.abort_requests()
