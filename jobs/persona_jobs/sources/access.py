"""How a source is reached: the usual servers and credentials, or its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..pipeline.pins import variable_prefix
from ..store import S3Options

_AWS_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# What a source may have of its own; its endpoint is in the spec.
_OWN = ("HF_TOKEN", *_AWS_CREDENTIALS, "AWS_REGION", "AWS_S3_ADDRESSING_STYLE")
_DEFAULT_ENDPOINTS = {"s3": "https://s3.amazonaws.com", "hub": "https://huggingface.co"}


@dataclass(frozen=True)
class SourceAccess:
    """How one source is reached; credentials never show in `repr`.

    Attributes:
        endpoint: URL of the hub or S3 server that the source names, None for the usual one.
        token: the hub's access token; None for the usual one, False for none.
        s3: endpoint and credentials of the S3 server, None for the usual ones.
        prefix: what the names of the variables with its credentials begin with.
    """

    endpoint: str | None = None
    token: str | Literal[False] | None = field(default=None, repr=False)
    s3: S3Options | None = None
    prefix: str = ""

    def location(self, uri: str) -> str:
        """Return what tells the same URI at two endpoints apart."""
        return f"{uri} at {self.endpoint}" if self.endpoint else uri


def source_access(name: str, endpoint: str | None, environ: Mapping[str, str]) -> SourceAccess:
    """Return how a source is reached.

    Credentials of its own are in variables with its prefix, such as `BASE_MODEL_HF_TOKEN`. The
    usual ones (`HF_TOKEN`, `AWS_*`) are sent to no other server than the usual one: a source with
    an endpoint and without credentials of its own is read anonymously.

    Args:
        name: path of the source below `spec`, such as `baseModel`.
        endpoint: the endpoint that the source names.
        environ: the environment variables.

    Raises:
        InputError: one half of an AWS key pair is missing.
    """
    prefix = variable_prefix(name)
    own = {name: value for name in _OWN if (value := environ.get(f"{prefix}{name}"))}
    elsewhere = endpoint is not None and not _is_usual(endpoint, environ)
    token: str | Literal[False] | None = own.get("HF_TOKEN")
    if token is None and elsewhere:
        token = False
    if endpoint is None and not own:
        return SourceAccess()
    s3 = _s3_options(own, endpoint, environ, elsewhere=elsewhere)
    return SourceAccess(endpoint, token, s3 and replace(s3, prefix=prefix), prefix)


def _s3_options(
    own: Mapping[str, str], endpoint: str | None, environ: Mapping[str, str], *, elsewhere: bool
) -> S3Options | None:
    has_own = any(name in own for name in _AWS_CREDENTIALS)
    if endpoint is None and not has_own:
        return None
    hidden = _AWS_CREDENTIALS if has_own or elsewhere else ()
    usual = {name: value for name, value in environ.items() if name not in hidden}
    if endpoint is not None:
        usual = {name: value for name, value in usual.items() if name not in _AWS_ENDPOINTS}
        usual["AWS_ENDPOINT_URL_S3"] = endpoint
    options = S3Options.from_environment({**usual, **own})
    # AWS_CA_BUNDLE is the store's; the certificate of another server may be a public one.
    return replace(options, ambient=not elsewhere, trust_usual=elsewhere)


def _is_usual(endpoint: str, environ: Mapping[str, str]) -> bool:
    s3 = next((environ[name] for name in _AWS_ENDPOINTS if environ.get(name)), None)
    usual = (
        s3 or _DEFAULT_ENDPOINTS["s3"],
        environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINTS["hub"],
    )
    return endpoint.rstrip("/") in {url.rstrip("/") for url in usual}
