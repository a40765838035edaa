from pathlib import Path

import pytest

from persona_jobs.errors import InputError
from persona_jobs.store import FileStore, S3Options, S3Store, open_store


def test_file_urls_open_a_store_on_disk() -> None:
    store = open_store("file:///var/lib/a%20b/")
    assert isinstance(store, FileStore)
    assert store.root == Path("/var/lib/a b")
    assert store.url == "file:///var/lib/a%20b"
    assert isinstance(open_store("file://localhost/x"), FileStore)


def test_s3_urls_open_a_store_in_a_bucket() -> None:
    store = open_store("s3://bucket/some/prefix/", S3Options(endpoint="http://localhost:9000"))
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix) == ("bucket", "some/prefix")
    assert store.url == "s3://bucket/some/prefix"
    assert (
        open_store("s3://bucket", S3Options(endpoint="http://localhost:9000")).url == "s3://bucket"
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/lib",
        "relative",
        "file://",
        "file://relative/dir",
        "file:///a%00b",
        "http://host/x",
        "s3://",
        "s3:///prefix",
        "s3://bucket/../up",
        "s3://bucket/a//b",
        "s3://bucket/a?versionId=1",
    ],
)
def test_wrong_urls_are_refused_with_a_hint(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_store(url, S3Options())
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/x", "http://key:hunter2@host/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_store(url, S3Options())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://key:hunter2@host:9000",
        "http://host:9000/path",
        "ftp://host",
        "http://",
        "http://h:x",
    ],
)
def test_wrong_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(InputError, match="endpoint") as caught:
        open_store("s3://bucket", S3Options(endpoint=endpoint))
    assert "hunter2" not in str(caught.value)


def test_options_are_read_from_the_environment() -> None:
    options = S3Options.from_environment(
        {
            "AWS_ENDPOINT_URL": "http://general:1",
            "AWS_ENDPOINT_URL_S3": "http://s3:2",
            "AWS_DEFAULT_REGION": "eu-west-3",
            "AWS_REGION": "",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "hunter2\n",
            "AWS_SESSION_TOKEN": "token-xyz",
            "AWS_S3_ADDRESSING_STYLE": "virtual",
            "AWS_CA_BUNDLE": "/etc/ca.pem",
        }
    )
    assert options.endpoint == "http://s3:2"
    assert options.region == "eu-west-3"
    assert options.path_style is False
    assert options.ca_bundle == "/etc/ca.pem"
    assert (options.access_key, options.secret_key) == ("AKIAEXAMPLE", "hunter2")
    shown = repr(options)
    assert not any(secret in shown for secret in ("AKIAEXAMPLE", "hunter2", "token-xyz"))


def test_an_incomplete_key_pair_and_unknown_styles_are_refused() -> None:
    with pytest.raises(InputError, match="AWS_SECRET_ACCESS_KEY is not set"):
        S3Options.from_environment({"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE"})
    with pytest.raises(InputError, match="AWS_S3_ADDRESSING_STYLE"):
        S3Options.from_environment({"AWS_S3_ADDRESSING_STYLE": "pathological"})
