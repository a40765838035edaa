"""The client of an S3 server: endpoint, certificates, retries and credentials."""

import os
import re
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, Credentials, IamAwsProvider
from urllib3.exceptions import HTTPError

from ..errors import InputError
from .options import SERVICE_VARIABLES, S3Options

_AWS_ENDPOINT = "https://s3.amazonaws.com"
_INSTANCE_METADATA = ip_network("fd00:ec2::/32")


class _Pool(urllib3.PoolManager):
    """A connection pool that labels XML answers as the client expects them.

    The client reads error codes only from `application/xml`; some servers send `text/xml`.
    """

    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> Any:  # type: ignore[override]
        response = super().urlopen(method, url, redirect, **kw)
        if response.headers.get("content-type", "").startswith("text/xml"):
            response.headers["content-type"] = "application/xml"
        return response


class _ProxyPool(_Pool, urllib3.ProxyManager):
    """The same through a proxy."""


def _proxy(scheme: str, host: str) -> str | None:
    """Return the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for a host, if any."""
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


class CredentialsError(Exception):
    """The service that gives out credentials can't be reached, or refuses them."""


class _ServiceCredentials(IamAwsProvider):  # type: ignore[misc]
    """Credentials of a pod or a machine, from the service that the AWS_* variables name."""

    def retrieve(self) -> Credentials:
        """Return valid credentials, from the service where the last ones have expired."""
        try:
            return super().retrieve()
        except (OSError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            if isinstance(cause, OSError):
                raise CredentialsError(f"{cause.filename}: {cause.strerror or cause}") from None
            raise CredentialsError(str(error)[:160]) from None
        except (TypeError, KeyError, AttributeError):
            raise CredentialsError("the service's answer is malformed") from None


class _ServicePool(urllib3.PoolManager):
    """Connections to the services that give out credentials.

    The proxies of the environment hold for them too, but not for this machine's own addresses.
    An error names the host only: the URL of STS contains the pod's token.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._settings = settings

    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> Any:  # type: ignore[override]
        parts = urlsplit(url)
        host = parts.hostname or ""
        proxy = None if _is_own_address(host) else _proxy(parts.scheme, host)
        try:
            if proxy:
                manager = urllib3.ProxyManager(proxy, **self._settings)
                response = manager.urlopen(method, url, redirect, **kw)
            else:
                response = super().urlopen(method, url, redirect, **kw)
        except HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise CredentialsError(f"{host} can't be reached ({type(reason).__name__})") from None
        if response.status >= 300:
            code = re.search(rb"<Code>(\w+)</Code>", response.data)
            detail = f" ({code.group(1).decode()})" if code else ""
            raise CredentialsError(f"{host} answers with HTTP status {response.status}{detail}")
        return response


def _is_own_address(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_link_local or address in _INSTANCE_METADATA


def make_client(options: S3Options, credentials: Any) -> tuple[str, Minio]:
    """Return the endpoint's URL and a client for it that retries a bounded number of times."""
    given = options.endpoint or _AWS_ENDPOINT
    default = "http" if options.secure is False else "https"
    parts = urlsplit(given if "://" in given else f"{default}://{given}")
    if parts.username or parts.password:
        raise InputError(
            "The S3 endpoint URL contains credentials",
            hint="Remove them, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )
    try:
        valid = bool(parts.hostname) and parts.scheme in {"http", "https"} and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.path.strip("/") or parts.query:
        raise InputError(
            f"The S3 endpoint {given[:200]!r} is not a server's URL",
            hint="Set AWS_ENDPOINT_URL_S3 to http(s)://host:port without a path",
        )
    secure = parts.scheme == "https" if options.secure is None else options.secure
    region = options.region or (None if options.endpoint is None else "us-east-1")
    proxy = _proxy("https" if secure else "http", parts.hostname or "")
    settings: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=options.connect_timeout, read=options.read_timeout),
        "maxsize": 10,
        "cert_reqs": "CERT_REQUIRED",
        **_authorities(options),
        "retries": _retries(options),
    }
    http = _ProxyPool(proxy, **settings) if proxy else _Pool(**settings)
    try:
        client = Minio(
            parts.netloc,
            access_key=options.access_key,
            secret_key=options.secret_key,
            session_token=options.session_token,
            secure=secure,
            region=region,
            http_client=http,
            credentials=credentials,
        )
    except ValueError as error:
        raise InputError(f"The S3 options are wrong: {error}", hint="Check the endpoint") from None
    if options.path_style:
        client.disable_virtual_style_endpoint()
    else:
        client.enable_virtual_style_endpoint()
    return f"{'https' if secure else 'http'}://{parts.netloc}", client


def _retries(options: S3Options) -> urllib3.Retry:
    return urllib3.Retry(
        total=options.attempts - 1,
        backoff_factor=0.5,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=None,  # all our requests are safe to repeat
        raise_on_status=False,
        redirect=0,
    )


def _authorities(options: S3Options) -> dict[str, Any]:
    """Return the pool's settings for the certificate authorities to trust."""
    if options.ca_bundle is None or not options.trust_usual:
        return {"ca_certs": _ca_bundle(options.ca_bundle)}
    context = ssl.create_default_context(cafile=_ca_bundle(None))
    context.load_verify_locations(_ca_bundle(options.ca_bundle))
    return {"ssl_context": context}


def _ca_bundle(path: str | None) -> str:
    if path is None:
        return os.environ.get("SSL_CERT_FILE") or certifi.where()
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"The CA bundle {path} can't be used: {error.strerror or error}",
            hint="Set AWS_CA_BUNDLE to a PEM file with the certificate authority",
        ) from None
    return path


def ambient_credentials(options: S3Options) -> Any:
    """Return the provider of a pod's or a machine's own credentials, None for anonymous access.

    Its methods raise `CredentialsError`.
    """
    if not options.ambient:
        return None
    if any(os.environ.get(name) for name in SERVICE_VARIABLES):
        return _ServiceCredentials(
            http_client=_ServicePool(
                timeout=urllib3.Timeout(options.connect_timeout, read=options.read_timeout),
                retries=_retries(options),
                cert_reqs="CERT_REQUIRED",
                ca_certs=_ca_bundle(options.ca_bundle),
            )
        )
    shared = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    return AWSConfigProvider() if shared.expanduser().is_file() else None
