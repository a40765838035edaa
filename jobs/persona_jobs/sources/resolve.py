"""Resolves every source once, before planning, so that the content keys hold what is read."""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from ..errors import InputError, StoreError
from ..store import open_store
from ..store.files import sha256_file, store_error
from ..store.urls import file_url_path
from .base_model import hub_cache_dir, wanted
from .gguf_contents import shard_names, shards
from .hub import hub_errors, split_hf_uri
from .package import package_path
from .reading import builtin_file, s3_object

_COMMIT = re.compile(r"[0-9a-f]{40}")
_STAMP = re.compile(r"-?(sha256|etag):[0-9a-f]{64}$")
_LABEL_LENGTH = 50
_RACY_NS = 2_000_000_000
Source = dict[str, Any]


class SourceResolver:
    """Finds out what the sources of a spec hold now.

    Args:
        cache_dir: where checksums of large files are kept between runs.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir

    def resolve(self, spec: dict[str, Any]) -> None:
        """Replace the revisions of a spec's sources, in place, by what is behind them now.

        An `hf://` source gets a commit. Every other source gets a digest of its content; a
        revision that the user gave stays in front of it, as a label.

        Args:
            spec: the spec as JSON.

        Raises:
            InputError: a source does not exist.
            StoreError: a source can't be reached or read now.
        """
        self._stamp(spec["baseModel"], "model", "")
        self._stamp(spec["instructions"], "dataset", "instructions.jsonl")
        self._stamp(spec["referencePersonas"], "dataset", "reference_personas.jsonl")
        for file in spec["evaluation"]["questionFiles"]:
            self._stamp(file, "dataset", "")

    def _stamp(self, source: Source, kind: str, builtin: str) -> None:
        uri = source["uri"]
        if uri.startswith("hf://"):
            self._pin(source, kind)
            return
        digest = self._digest(uri, builtin, is_model=kind == "model")
        label = _STAMP.sub("", source.get("revision") or "")[:_LABEL_LENGTH]
        source["revision"] = f"{label}-{digest}" if label else digest

    def _pin(self, source: Source, kind: str) -> None:
        uri = source["uri"]
        segments, revision = split_hf_uri(uri, source.get("revision"))
        source["uri"] = uri.partition("@")[0]
        if revision is None or not _COMMIT.fullmatch(revision):
            revision = self._commit("/".join(segments[:2]), revision or "main", kind, uri)
        source["revision"] = revision

    def _commit(self, name: str, revision: str, kind: str, uri: str) -> str:
        try:
            with hub_errors(uri, revision):
                from huggingface_hub import HfApi

                info = HfApi().repo_info(name, revision=revision, repo_type=kind)
                return str(info.sha)
        except (InputError, StoreError) as error:
            commit = self._cached_commit(name, revision, kind)
            if commit is None or not _is_offline(error):
                raise
            return commit

    def _cached_commit(self, name: str, revision: str, kind: str) -> str | None:
        from huggingface_hub import constants

        root = hub_cache_dir(self._cache_dir) if kind == "model" else None
        folder = f"{kind}s--{name.replace('/', '--')}"
        file = (root or Path(constants.HF_HUB_CACHE)) / folder / "refs" / revision
        try:
            return file.read_text("utf-8").strip()
        except OSError:
            return None

    def _digest(self, uri: str, builtin: str, *, is_model: bool) -> str:
        if uri.startswith("s3://"):
            return _bucket_digest(uri, is_model=is_model)
        if uri.startswith("builtin://"):
            path = builtin_file(uri, builtin)
        else:
            path = package_path(uri) if uri.startswith("pkg://") else file_url_path(uri)
        try:
            if path.is_file():
                files = shards(path) if is_model else [path]
                if len(files) == 1:
                    return f"sha256:{self._checksum(path)}"
            else:
                files = sorted(f for f in path.glob("*") if f.is_file() and wanted(f.name))
            lines = [f"{self._checksum(file)}  {file.name}\n" for file in files]
        except OSError as error:
            raise store_error(error, action="read", subject=str(path)) from error
        if not lines or not is_model:
            raise InputError(_missing(path), hint="Correct the path", subject=uri)
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def _checksum(self, path: Path) -> str:
        """Return a file's SHA-256, from the last run if size and time are still the same."""
        status = path.stat()
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
        known = self._cache_dir / "checksums" / f"{name}.json"
        state = [status.st_size, status.st_mtime_ns]
        try:
            recorded = json.loads(known.read_text("utf-8"))
            if recorded["state"] == state:
                return str(recorded["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        checksum = sha256_file(path)
        # A file that was written just now may change again without another time.
        if time.time_ns() - status.st_mtime_ns > _RACY_NS:
            known.parent.mkdir(parents=True, exist_ok=True)
            partial = known.with_name(f"{name}.{os.getpid()}")
            partial.write_text(json.dumps({"state": state, "sha256": checksum}), "utf-8")
            partial.replace(known)
        return checksum


def _bucket_digest(uri: str, *, is_model: bool) -> str:
    """Return a digest of the objects' tags and sizes, without reading them."""
    if is_model and not uri.endswith(".gguf"):
        store = open_store(uri)
        names = sorted(name for name in store.list() if wanted(name))
    else:
        store, name = s3_object(uri)
        names = shard_names(name) if is_model else [name]
    found = [(name, stat) for name in names if (stat := store.stat(name))]
    lines = [f"{name} {stat.etag} {stat.size}\n" for name, stat in found]
    if not lines:
        raise InputError(f"{uri} does not exist", hint="Correct the bucket or the key", subject=uri)
    return f"etag:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _is_offline(error: Exception) -> bool:
    from huggingface_hub import constants

    return isinstance(error, StoreError) or constants.HF_HUB_OFFLINE


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"{path} contains no files of this kind"
    return f"{path} does not exist"
