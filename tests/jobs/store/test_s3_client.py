"""Credentials that a service gives out: proxies, errors that are told apart, no secrets shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from persona_jobs.errors import StoreError
from persona_jobs.store import S3Options, open_store
from support.credentials_service import Service
from support.s3_server import SECRET_KEY, S3Server, free_port

BUCKET = "artifacts"
TOKEN = "the-token-of-the-pod"


@pytest.fixture
def service(no_aws_environment: None) -> Iterator[Service]:
    running = Service()
    yield running
    running.server.shutdown()


def failure(endpoint: str) -> StoreError:
    with pytest.raises(StoreError) as caught:
        open_store(f"s3://{BUCKET}/x", S3Options(endpoint=endpoint, attempts=1)).read_bytes("a")
    for text in (TOKEN, SECRET_KEY):
        assert text not in f"{caught.value} {caught.value.hint}"
    return caught.value


def use_remote_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(file))


def test_credentials_come_through_the_proxy(
    service: Service, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_remote_service(monkeypatch, tmp_path, "http://credentials.invalid/role")
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    options = S3Options(endpoint=s3_server.endpoint, attempts=1)
    store = open_store(f"s3://{BUCKET}/ambient", options)
    store.write_bytes("a", b"1")
    assert store.read_bytes("a") == b"1"
    assert service.asked == ["GET http://credentials.invalid/role"]


def test_no_proxy_holds_for_credentials(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_remote_service(monkeypatch, tmp_path, "http://credentials.invalid/role")
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.setenv("no_proxy", "credentials.invalid")
    assert "credentials.invalid can't be reached" in str(failure("http://127.0.0.1:1"))
    assert service.asked == []


def test_the_machines_own_addresses_need_no_exception_from_the_proxy(
    service: Service, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/role")
    # The S3 server stands in for the proxy: it answers a request for another host's object.
    monkeypatch.setenv("http_proxy", s3_server.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    failure("http://store.invalid")
    assert service.asked == ["GET /role"]


def test_an_error_of_sts_behind_a_proxy_is_not_called_one_of_the_bucket(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/persona")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("https_proxy", service.url)
    error = failure(f"http://127.0.0.1:{free_port()}")
    assert service.asked == ["CONNECT sts.eu-central-1.amazonaws.com:443"]
    assert "the credentials can't be fetched: sts.eu-central-1.amazonaws.com" in str(error)
    assert "credentials" in error.hint


def test_a_refusal_of_the_service_is_named(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/role")
    service.status, service.answer = 403, b"<Error><Code>AccessDenied</Code></Error>"
    text = str(failure("http://127.0.0.1:1"))
    assert "127.0.0.1 answers with HTTP status 403 (AccessDenied)" in text


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b"<html>"])
def test_a_malformed_answer_of_the_service_is_an_error_of_the_credentials(
    service: Service, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/role")
    service.answer = answer
    assert "the credentials can't be fetched" in str(failure("http://127.0.0.1:1"))


def test_a_missing_token_file_is_named(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/persona")
    assert f"{tmp_path / 'absent'}: No such file" in str(failure("http://127.0.0.1:1"))


def test_keys_in_variables_are_not_advised_where_a_service_gave_the_credentials(
    service: Service, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/role")
    service.answer = service.answer.replace(SECRET_KEY.encode(), b"another-secret")
    error = failure(s3_server.endpoint)
    assert "SignatureDoesNotMatch" in str(error)
    assert error.hint == "Check the service or the file that gives out the credentials"
