"""An OpenAI-compatible endpoint: which model it serves, and how it is called."""

from typing import Annotated

from pydantic import Field

from .common import SecretKeyRef, SpecModel, UriOf

TEACHER_KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the teacher's API key."""
Identity = Annotated[str, Field(min_length=1, max_length=256)]


class Endpoint(SpecModel):
    """A model behind any OpenAI-compatible endpoint (`POST …/chat/completions`)."""

    base_url: Annotated[str, UriOf("http", "https"), Field(alias="baseURL")]
    """Base URL of the API, up to and including `/v1`."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """Model name sent with each request."""
    identity: Identity | None = None
    """What the model is, wherever it is served, such as its name and commit. It takes the place of
    `baseURL` and `model` in content keys, so that moving the endpoint reruns nothing. Default: URL
    and model name, as the model `default` at two URLs is two models."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Secret key with the API key. On a laptop set OPENAI_API_KEY for the teacher and
    JUDGE_NAME_API_KEY for the judge NAME instead."""
    max_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests in flight at once."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Time limit of one request."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Further attempts of one request after a failure that may pass (429, 5xx, time-out)."""


def judge_key_variable(name: str) -> str:
    """Return the environment variable with the API key of the judge called `name`."""
    return f"JUDGE_{name.replace('-', '_').upper()}_API_KEY"
