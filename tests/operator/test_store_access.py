"""How pods reach the store."""

import pytest

from persona_jobs.api import Storage
from persona_jobs.errors import InputError
from persona_operator.settings import Store as StoreSettings
from persona_operator.store_access import StoreAccess, store_access


def test_the_storage_of_the_spec_overrides_the_settings() -> None:
    default = StoreSettings(uri="s3://a/b/", endpoint="http://x", credentials_secret="s")
    assert store_access(Storage(), default) == StoreAccess(
        uri="s3://a/b", endpoint="http://x", credentials_secret="s"
    )
    own = Storage.model_validate(
        {"uri": "s3://c", "addressingStyle": "VirtualHost", "credentialsSecretRef": {"name": "t"}}
    )
    access = store_access(own, default)
    assert (access.uri, access.addressing_style) == ("s3://c", "virtual")
    assert access.credentials_secret == "t"


def test_a_file_store_must_be_in_the_shared_volume() -> None:
    volume = {"claimName": "c", "mountPath": "/store"}
    default = StoreSettings.model_validate({"uri": "file:///store/p", "volume": volume})
    assert store_access(Storage(), default).volume is not None
    for uri in ("file:///st%6Fre/p", "file://localhost/store/p"):
        assert store_access(Storage(uri=uri), default).uri == uri
    for uri in (
        "file:///elsewhere",
        "file:///storeroom",
        "file:///store/../etc",
        "file:///store/%2e%2e/etc",
    ):
        with pytest.raises(InputError, match="Pods on other nodes can't see"):
            store_access(Storage(uri=uri), default)
