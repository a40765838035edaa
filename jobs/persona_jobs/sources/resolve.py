"""Looks up what the sources of a spec hold, before planning and again when they are read."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, PersonaError, StoreError
from ..pipeline.pins import BUILTIN_FILES, Source, pin_sources, sources
from ..store import Store, open_store
from ..store.files import CHUNK_BYTES, sha256_file, store_error
from ..store.urls import file_url_path
from .access import SourceAccess, source_access
from .base_model import hub_cache_dir, wanted
from .gguf_contents import shard_names, shards
from .hub import hub_errors, split_hf_uri
from .package import package_path
from .reading import builtin_file, s3_object

_RACY_NS = 2_000_000_000


class SourceResolver:
    """Finds out what the sources of a spec hold now.

    Args:
        cache_dir: where checksums of large files are kept between runs.
        environ: the environment variables, which hold the credentials of the sources.
    """

    def __init__(self, cache_dir: Path, environ: Mapping[str, str]) -> None:
        self._cache_dir = cache_dir
        self._environ = environ

    def resolve(self, spec: dict[str, Any]) -> None:
        """Pin every source of a spec, in place: an `hf://` source to a commit, others to a digest.

        Args:
            spec: the spec as JSON, defaults included.

        Raises:
            InputError: a source does not exist.
            StoreError: a source can't be reached or read now.
        """
        pin_sources(spec, self.look_up(spec))

    def look_up(self, spec: dict[str, Any]) -> dict[str, str]:
        """Return the commit or digest of each source that the spec doesn't pin, by name.

        Raises:
            InputError: a source does not exist.
            StoreError: a source can't be reached or read now.
        """
        found = {}
        for source in sources(spec):
            if source.digest is None:
                with _naming(source):
                    found[source.name] = self._look_up(source)
        return found

    @contextmanager
    def unchanged(self, source: Source) -> Iterator[None]:
        """Make sure that a source holds what it is pinned to while it is read inside.

        Objects in a bucket are compared before and after: they may change meanwhile. A commit of
        the hub can't change, and of a source that isn't pinned nothing is known.

        Raises:
            InputError: it holds something else, or it does not exist any more.
            StoreError: it can't be reached or read now.
        """
        pinned = source.digest
        if pinned is None or source.is_on_hub:
            yield
            return
        with _naming(source):
            before = self._look_up(source)
            # A user may know the SHA-256 of objects, of which only the tags are looked up.
            by_content = pinned.startswith("sha256:") and before.startswith("etag:")
            _compare(source, self._content_digest(source) if by_content else before, pinned)
        yield
        if source.uri.startswith("s3://"):
            with _naming(source):
                _compare(source, self._look_up(source), before)

    def _content_digest(self, source: Source) -> str:
        access = source_access(source.name, source.fields.get("endpoint"), self._environ)
        store, names = _objects(source.uri, access, is_model=source.kind == "model")
        checksums = [(name, _object_checksum(store, name)) for name in names]
        if len(checksums) == 1 and not _is_directory(source):
            return f"sha256:{checksums[0][1]}"
        lines = "".join(f"{checksum}  {name}\n" for name, checksum in checksums)
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def _look_up(self, source: Source) -> str:
        access = source_access(source.name, source.fields.get("endpoint"), self._environ)
        if source.is_on_hub:
            return self._commit(source, access)
        return self._digest(source, access)

    def _commit(self, source: Source, access: SourceAccess) -> str:
        segments, written = split_hf_uri(source.uri, source.fields.get("revision"))
        name, revision = "/".join(segments[:2]), written or "main"
        try:
            with hub_errors(source.uri, revision, access.prefix):
                from huggingface_hub import HfApi

                hub = HfApi(endpoint=access.endpoint, token=access.token)
                info = hub.repo_info(name, revision=revision, repo_type=source.kind)
                return str(info.sha)
        except (InputError, StoreError) as error:
            commit = self._cached_commit(name, revision, source.kind)
            # The cache doesn't say which hub a branch's commit is from.
            if commit is None or access.endpoint is not None or not _is_offline(error):
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

    def _digest(self, source: Source, access: SourceAccess) -> str:
        uri, is_model = source.uri, source.kind == "model"
        if uri.startswith("s3://"):
            return _bucket_digest(uri, access, is_model=is_model)
        if uri.startswith("builtin://"):
            path = builtin_file(uri, BUILTIN_FILES[source.name])
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
        # Files of two images may have one path, size and time of modification.
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
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


def _compare(source: Source, found: str, pinned: str) -> None:
    """Raise InputError unless a source holds what it is pinned to."""
    if found == pinned:
        return
    hint = (
        "Put the former content back, or start again to use the present one (if the spec names "
        "the digest, remove it first)"
    )
    if source.uri.startswith("builtin://"):
        hint = "Use images of one release for the operator and the stages"
    raise InputError(
        f"{source.uri} has changed since it was resolved: it holds {found[:15]}… instead of "
        f"{pinned[:15]}…",
        hint=hint,
    )


def _is_directory(source: Source) -> bool:
    return source.kind == "model" and not source.uri.endswith(".gguf")


def _objects(uri: str, access: SourceAccess, *, is_model: bool) -> tuple[Store, list[str]]:
    """Return the store and the names in it of the objects that are read."""
    if is_model and not uri.endswith(".gguf"):
        store = open_store(uri, access.s3)
        return store, sorted(name for name in store.list() if wanted(name))
    store, name = s3_object(uri, access)
    return store, shard_names(name) if is_model else [name]


def _object_checksum(store: Store, name: str) -> str:
    digest = hashlib.sha256()
    with store.open_range(name, 0, None) as body:
        while chunk := body.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _bucket_digest(uri: str, access: SourceAccess, *, is_model: bool) -> str:
    """Return a digest of the objects' tags and sizes, without reading them."""
    store, names = _objects(uri, access, is_model=is_model)
    found = [(name, stat) for name in names if (stat := store.stat(name))]
    lines = [f"{name} {stat.etag} {stat.size}\n" for name, stat in found]
    if not lines:
        raise InputError(f"{uri} does not exist", hint="Correct the bucket or the key", subject=uri)
    return f"etag:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Let errors name the field of the source."""
    try:
        yield
    except PersonaError as error:
        error.subject = f"spec.{source.name}"
        raise


def _is_offline(error: Exception) -> bool:
    from huggingface_hub import constants

    return isinstance(error, StoreError) or constants.HF_HUB_OFFLINE


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"{path} contains no files of this kind"
    return f"{path} does not exist"
