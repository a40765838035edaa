import pytest

from persona_jobs.serve.engine import Engine
from support.serving import PERSONA_TEMPLATE, serving
from support.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer(PERSONA_TEMPLATE)


@pytest.fixture
def engine(tokenizer):
    return Engine(tiny_model(), tokenizer)


@pytest.fixture
async def client(engine):
    async with serving(engine) as client:
        yield client
