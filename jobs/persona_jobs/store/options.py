"""Endpoint and credentials of an S3 server."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from ..errors import InputError

# Services that give out a pod's or a machine's own credentials, such as for an IAM role.
SERVICE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def gives_credentials(environ: Mapping[str, str]) -> bool:
    """Return whether an environment holds a key pair, or names a service that gives one out."""
    return any(environ.get(name) for name in ("AWS_ACCESS_KEY_ID", *SERVICE_VARIABLES))


@dataclass(frozen=True)
class S3Options:
    """Endpoint and credentials of an S3 server; the credentials never show in `repr`.

    Attributes:
        endpoint: `http(s)://host[:port]` or `host[:port]`; None for AWS itself.
        region: None for `us-east-1`, or on AWS for the bucket's own region.
        path_style: `https://host/bucket/key` rather than `https://bucket.host/key`.
        secure: TLS or not; None follows the endpoint's scheme (TLS where it has none).
        ca_bundle: PEM file of the certificate authorities to trust; None for the usual ones.
        trust_usual: whether the usual certificate authorities count beside `ca_bundle`.
        connect_timeout: seconds to reach the server.
        read_timeout: seconds to wait for the next byte from the server.
        ambient: whether a pod's or a machine's own credentials count where there is no key pair.
        prefix: what the names of the variables with these values begin with; hints name them.
        attempts: how often one request is tried in all, with growing pauses in between.
    """

    endpoint: str | None = None
    region: str | None = None
    path_style: bool = True
    secure: bool | None = None
    ca_bundle: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    trust_usual: bool = False
    ambient: bool = True
    prefix: str = ""
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    attempts: int = 4

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the usual `AWS_*` variables; empty ones count as unset.

        `AWS_ENDPOINT_URL_S3` (then `AWS_ENDPOINT_URL`), `AWS_REGION` (then
        `AWS_DEFAULT_REGION`), `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
        `AWS_SESSION_TOKEN`, `AWS_CA_BUNDLE` and `AWS_S3_ADDRESSING_STYLE` (`path`, the
        default, or `virtual`).

        Raises:
            InputError: one half of the key pair is missing, or the addressing style is unknown.
        """
        source = os.environ if environ is None else environ

        def value(*names: str) -> str | None:
            return next((source[name].strip() for name in names if source.get(name)), None)

        style = value("AWS_S3_ADDRESSING_STYLE") or "path"
        if style not in {"path", "virtual", "auto"}:
            raise InputError(
                f"AWS_S3_ADDRESSING_STYLE is {style!r}", hint="Set it to path or virtual"
            )
        access_key, secret_key = value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY")
        if (access_key is None) != (secret_key is None):
            absent = "AWS_ACCESS_KEY_ID" if access_key is None else "AWS_SECRET_ACCESS_KEY"
            raise InputError(f"{absent} is not set", hint="Set both halves of the key pair")
        return cls(
            endpoint=value("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            region=value("AWS_REGION", "AWS_DEFAULT_REGION"),
            path_style=style != "virtual",
            ca_bundle=value("AWS_CA_BUNDLE"),
            access_key=access_key,
            secret_key=secret_key,
            session_token=value("AWS_SESSION_TOKEN"),
        )
