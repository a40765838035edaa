"""Character cards from every kind of source."""

import os
from pathlib import Path

from ...api.persona import PersonaCard
from ...errors import CardError
from ...store.files import store_error
from ..access import SourceAccess, source_access
from ..base_model import hub_cache_dir
from ..hub import hub_errors, split_hf_uri
from ..package import package_path
from ..reading import data_file
from .containers import MAX_FILE_BYTES, card_json
from .fields import parse_fields
from .persona import CardPersona, persona_of


def load(
    uri: str,
    revision: str | None = None,
    *,
    user: str,
    cache_dir: Path | None = None,
    access: SourceAccess | None = None,
) -> CardPersona:
    """Read a character card.

    Args:
        uri: a `file://`, `s3://` or `pkg://` file, or `hf://ORG/NAME/FILE` in the repository of a
            data set.
        revision: commit, branch or tag of an `hf://` card.
        user: what `{{user}}` stands for.
        cache_dir: where downloads are kept.
        access: how the source is reached; None for the usual servers and credentials.

    Raises:
        CardError: the card is malformed, too large, or holds what no persona may hold.
        InputError: the source does not exist.
        StoreError: the source can't be reached or read now.
    """
    path = _path(uri, revision, cache_dir, access or SourceAccess())
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise store_error(error, action="read", subject=str(path)) from error
    try:
        return parse(data, user=user)
    except CardError as error:
        error.subject = uri
        raise


def of_spec(card: PersonaCard, cache_dir: Path) -> CardPersona:
    """Read the card that a spec names, with the credentials of the environment.

    Raises:
        CardError: as `load`.
        InputError: as `load`.
        StoreError: as `load`.
    """
    return load(
        card.uri,
        card.revision if card.uri.startswith("hf://") else None,
        user=card.user,
        cache_dir=cache_dir,
        access=source_access("persona.card", card.endpoint, os.environ),
    )


def parse(data: bytes, *, user: str) -> CardPersona:
    """Return the persona of a card from the bytes of its file.

    Raises:
        CardError: the card is malformed, too large, or holds what no persona may hold.
    """
    return persona_of(parse_fields(card_json(data)), user=user)


def _path(uri: str, revision: str | None, cache_dir: Path | None, access: SourceAccess) -> Path:
    if uri.startswith("pkg://"):
        return package_path(uri)
    if uri.startswith(("file://", "s3://")):
        return data_file(uri, cache_dir=cache_dir, access=access)
    if not uri.startswith("hf://"):
        raise CardError(
            f"{uri[:200]!r} is not a source of character cards",
            hint="Download the card, or use file://, s3://, hf:// or pkg://",
        )
    segments, commit = split_hf_uri(uri, revision)
    if len(segments) < 3:
        raise CardError(
            f"{uri} names no file", hint="Use hf://organization/name/file.png", subject=uri
        )
    repository, name = "/".join(segments[:2]), "/".join(segments[2:])
    with hub_errors(uri, commit, access.prefix):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(
                hf_hub_download(
                    repository,
                    name,
                    repo_type="dataset",
                    revision=commit,
                    cache_dir=cache_dir and hub_cache_dir(cache_dir),
                    token=access.token,
                    endpoint=access.endpoint,
                )
            )
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            raise CardError(
                f"The data set {repository} has no file {name}",
                hint="Correct the file's name",
                subject=uri,
            ) from None
