"""How a persona's pods reach the artifact store: the spec's storage overrides the settings."""

import os
from dataclasses import dataclass

from persona_jobs.api import Storage
from persona_jobs.errors import InputError
from persona_jobs.store.urls import file_url_path

from .settings import ConfigMapKey, MountedVolume, Store


@dataclass(frozen=True)
class StoreAccess:
    """An artifact store, and the names of the objects needed to reach it.

    Attributes:
        uri: `s3://BUCKET/PREFIX` or `file:///DIRECTORY`, without a trailing slash.
        endpoint: S3 endpoint URL, None for AWS.
        region: S3 region.
        addressing_style: `path` or `virtual`, None for the default.
        credentials_secret: Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
        ca: ConfigMap key with the PEM bundle of a private CA.
        volume: volume of a `file://` store.
    """

    uri: str
    endpoint: str | None = None
    region: str | None = None
    addressing_style: str | None = None
    credentials_secret: str | None = None
    ca: ConfigMapKey | None = None
    volume: MountedVolume | None = None

    @property
    def identity(self) -> str:
        """Return what identifies the store: a bucket at another endpoint is another store."""
        return f"{self.uri} at {self.endpoint}" if self.endpoint else self.uri


def store_access(storage: Storage, default: Store) -> StoreAccess:
    """Return the store of a persona.

    Raises:
        InputError: no store is named, or it is a `file://` store that pods can't share.
    """
    uri = storage.uri or default.uri
    if uri is None:
        raise InputError(
            "The spec names no store, and the operator has no default store",
            hint="Set spec.storage.uri, or ask the administrator to set the chart's store.uri",
            subject="spec.storage.uri",
        )
    uri = uri.rstrip("/")
    if uri.startswith("file://"):
        mount = default.volume.mount_path.rstrip("/") if default.volume else None
        directory = os.path.normpath(file_url_path(uri))
        if mount is None or not f"{directory}/".startswith(f"{mount}/"):
            raise InputError(
                f"Pods on other nodes can't see {uri}",
                hint="Use an s3:// store, or a directory of the administrator's store volume"
                + (f" ({mount})" if mount else ""),
                subject="spec.storage.uri",
            )
        return StoreAccess(uri=uri, volume=default.volume)
    style = storage.addressing_style or default.addressing_style
    ca = storage.ca_bundle_ref
    secret = storage.credentials_secret_ref
    return StoreAccess(
        uri=uri,
        endpoint=storage.endpoint or default.endpoint,
        region=storage.region or default.region,
        addressing_style={"Path": "path", "VirtualHost": "virtual"}.get(style or ""),
        credentials_secret=secret.name if secret else default.credentials_secret,
        ca=ConfigMapKey(name=ca.name, key=ca.key) if ca else default.ca_config_map,
    )


def is_operators_own(access: StoreAccess, default: Store) -> bool:
    """Return whether a persona's store is the administrator's.

    The operator uses its own credentials on no other store. Otherwise a user could read or remove,
    through the operator, what the user's own credentials give no access to.
    """
    return (
        default.uri is not None
        and access.uri == default.uri.rstrip("/")
        and access.endpoint == default.endpoint
    )
