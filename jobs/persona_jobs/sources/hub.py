"""URIs and errors of the Hugging Face hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InputError, StoreError
from ..store.files import store_error

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def split_hf_uri(uri: str, revision: str | None) -> tuple[list[str], str | None]:
    """Return the path segments and the revision of `hf://segment/…[@revision]`.

    Raises:
        InputError: the name is malformed, or the URI and `revision` name different revisions.
    """
    name, at, inline = uri.removeprefix("hf://").partition("@")
    segments = name.strip("/").split("/")
    if not all(_PART.fullmatch(part) for part in segments) or (at and not inline):
        raise InputError(
            f"{uri[:200]!r} is not a name on the hub",
            hint="Use hf://organization/name, with @revision if needed",
            subject=uri,
        )
    if inline and revision and inline != revision:
        raise InputError(
            f"{uri} names the revision {inline}, but the revision field names {revision}",
            hint="Set only one of them",
            subject=uri,
        )
    return segments, inline or revision


@contextmanager
def hub_errors(uri: str, revision: str | None, prefix: str) -> Iterator[None]:
    """Turn the exceptions of the hub's libraries into one clear error.

    Args:
        uri: the source.
        revision: its revision.
        prefix: what the name of the variable with its token begins with.

    Raises:
        InputError: retrying can't help: the repository is missing or gated, or the hub is offline
            and the files are not in the cache.
        StoreError: the hub can't be reached now.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The errors of the HTTP library that the hub's own are derived from; it isn't always the same.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"{uri} is gated",
            hint="Accept its terms on the hub, and set "
            f"{prefix}HF_TOKEN to a token that may read it",
            subject=uri,
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{uri} does not exist on the hub, or it is private",
            hint=f"Correct the name, or set {prefix}HF_TOKEN to a token that may read it",
            subject=uri,
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{uri} has no revision {revision}", hint="Correct the revision", subject=uri
        ) from None
    except HFValidationError as error:
        raise InputError(
            f"{uri} is not a name on the hub ({error})", hint="Correct the name", subject=uri
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        if constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
            raise InputError(
                f"{uri} is not in the local cache, and HF_HUB_OFFLINE is set",
                hint="Unset it, or fetch the files on a machine with network and use file://",
                subject=uri,
            ) from None
        raise _unreachable(uri, error) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in {401, 403}:
            raise InputError(
                f"The hub refuses {uri} (HTTP {status})",
                hint=f"Set {prefix}HF_TOKEN to a token that may read it",
                subject=uri,
            ) from None
        raise _unreachable(uri, error) from None
    except transport_error as error:
        raise _unreachable(uri, error) from None
    except OSError as error:
        if error.errno is not None:
            raise store_error(error, action="download", subject=uri) from error
        raise _unreachable(uri, error) from None


def _unreachable(uri: str, error: Exception) -> StoreError:
    return StoreError(
        f"{uri} can't be fetched from the hub now ({type(error).__name__})",
        hint="Check the network and run again, or use file:// or s3://",
        subject=uri,
    )
