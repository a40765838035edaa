"""The base model as a local directory, from the hub, a bucket, the disk or a package."""

import hashlib
import os
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import InputError
from ..export.model_card import CARD
from ..store import ObjectNotFoundError, open_store
from ..store.urls import file_url_path
from . import gguf
from .access import SourceAccess
from .checkpoint import check_checkpoint, check_config
from .gguf_contents import shard_names
from .hub import hub_errors, split_hf_uri
from .package import package_path
from .reading import data_file, downloads_dir, fetch_object

WANTED = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "*.spm",
    "spiece.model",
    "merges.txt",
    "vocab.txt",
)
"""Files of a checkpoint that are fetched; pickles and code are never among them."""

UNWANTED = ("consolidated*", "*/*")
"""Files that are not fetched: other formats of the same weights, and all sub-folders."""


def resolve(
    uri: str,
    revision: str | None = None,
    *,
    cache_dir: Path,
    access: SourceAccess | None = None,
) -> Path:
    """Return a local directory with a plain, checked Hugging Face safetensors checkpoint.

    Args:
        uri: `hf://organization/name[@revision]`, `s3://bucket/prefix` (a checkpoint's folder,
            or one `.gguf` object), `file:///directory`, `file:///model.gguf`, or
            `pkg://import_name/model.gguf` (a file inside an installed package).
        revision: branch, tag or commit; only for `hf://`.
        cache_dir: where downloads and conversions are kept.
        access: how the source is reached; None for the usual servers and credentials.

    Raises:
        InputError: the URI is malformed, or the model does not exist or has an unusable format.
        CorruptArtifactError: a file is truncated or malformed.
        StoreError: the hub or the bucket can't be reached, or the cache can't be written.
    """
    access = access or SourceAccess()
    if uri.startswith("hf://"):
        directory = _from_hub(uri, revision, cache_dir, access)
    elif revision:
        raise InputError(
            f"The revision {revision} is set for {uri}, but only hf:// has revisions",
            hint="Remove the revision, or use hf://",
            subject=uri,
        )
    elif uri.startswith("s3://"):
        directory = _from_bucket(uri, cache_dir, access)
    elif uri.startswith("file://"):
        directory = _from_disk(file_url_path(uri), uri, cache_dir)
    elif uri.startswith("pkg://"):
        directory = _from_disk(package_path(uri), uri, cache_dir)
    else:
        raise InputError(
            f"{uri[:200]!r} is not a model URI",
            hint="Use hf://organization/name, s3://bucket/prefix, file:///path or "
            "pkg://import_name/model.gguf",
        )
    check_checkpoint(directory)
    return directory


def _from_hub(uri: str, revision: str | None, cache_dir: Path, access: SourceAccess) -> Path:
    segments, revision = split_hf_uri(uri, revision)
    if len(segments) > 2:
        raise InputError(
            f"{uri} has more parts than an organization and a name",
            hint="Use hf://organization/name",
            subject=uri,
        )
    with hub_errors(uri, revision, access.prefix):
        from huggingface_hub import snapshot_download

        def snapshot(patterns: tuple[str, ...]) -> Path:
            return Path(
                snapshot_download(
                    "/".join(segments),
                    revision=revision,
                    cache_dir=hub_cache_dir(cache_dir),
                    token=access.token,
                    endpoint=access.endpoint,
                    allow_patterns=list(patterns),
                    ignore_patterns=list(UNWANTED),
                )
            )

        config = snapshot(("config.json",))
    if (config / "config.json").is_file():
        check_config(config)  # an unusable model is refused before its weights are fetched
    with hub_errors(uri, revision, access.prefix):
        return snapshot((*WANTED, CARD))  # the card names the licence


def hub_cache_dir(cache_dir: Path) -> Path | None:
    """Return the folder for hub downloads, None for the hub's own cache if the user has one."""
    own = any(os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"))
    if own or Path("~/.cache/huggingface/hub").expanduser().is_dir():
        return None
    return cache_dir / "huggingface"


def _from_disk(path: Path, uri: str, cache_dir: Path) -> Path:
    if path.is_dir():
        return path
    if not path.exists():
        raise InputError(f"{path} does not exist", hint="Correct the path", subject=uri)
    if path.suffix == ".safetensors":
        raise InputError(
            f"{path} is a weight file without its config and tokenizer",
            hint=f"Use its directory: file://{path.parent}",
            subject=uri,
        )
    return gguf.convert(path, cache_dir)


def _from_bucket(uri: str, cache_dir: Path, access: SourceAccess) -> Path:
    if uri.endswith(".gguf"):
        return gguf.convert(_gguf_from_bucket(uri, cache_dir, access), cache_dir)
    store = open_store(uri, access.s3)
    names = [name for name in store.list() if wanted(name)]
    if not names:
        raise InputError(
            f"{uri} contains no checkpoint",
            hint="Correct the bucket or the prefix",
            subject=uri,
        )
    location = access.location(store.url)
    folder = downloads_dir(cache_dir) / hashlib.sha256(location.encode()).hexdigest()[:16]
    for name in sorted(names, key=lambda name: name != "config.json"):
        fetch_object(store, name, folder / name)
        if name == "config.json":
            check_config(folder)  # an unusable model is refused before its weights are fetched
    for stale in folder.iterdir():  # objects that are no longer in the bucket
        if wanted(stale.name) and stale.name not in names:
            stale.unlink()
    return folder


def _gguf_from_bucket(uri: str, cache_dir: Path, access: SourceAccess) -> Path:
    """Return the local path of a GGUF object, with its other shards beside it."""
    folder, _, name = uri.rpartition("/")
    names = shard_names(name)
    if len(names) == 1:
        return data_file(uri, cache_dir=cache_dir, access=access)
    location = access.location(folder)
    local = downloads_dir(cache_dir) / hashlib.sha256(location.encode()).hexdigest()[:16]
    store = open_store(folder, access.s3)
    for shard in names:
        try:
            fetch_object(store, shard, local / shard)
        except ObjectNotFoundError:
            raise InputError(
                f"{uri} is one of {len(names)} shards, and {folder}/{shard} does not exist",
                hint="Put all shards into one folder of the bucket",
                subject=uri,
            ) from None
    return local / name


def wanted(name: str) -> bool:
    """Return whether a file of a checkpoint is needed."""
    return any(fnmatchcase(name, pattern) for pattern in WANTED) and not any(
        fnmatchcase(name, pattern) for pattern in UNWANTED
    )
