"""The shape of a base model from its configuration, without its weights."""

import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..estimates.shape import ModelShape, from_config, from_gguf
from ..store import ObjectNotFoundError, Store, open_store
from ..store.urls import file_url_path
from .access import SourceAccess
from .base_model import hub_cache_dir
from .checkpoint import check_config
from .hub import hub_errors, split_hf_uri
from .package import package_path
from .reading import json_object, s3_object

# The header of a GGUF file, with its vocabulary, is smaller than this.
_HEADER_BYTES = 64 << 20


def model_shape(
    uri: str, revision: str | None, *, cache_dir: Path, access: SourceAccess | None = None
) -> ModelShape:
    """Return the shape of a base model; reads `config.json`, or the header of a GGUF file.

    Args:
        uri: as in `base_model.resolve`.
        revision: branch, tag or commit; only for `hf://`.
        cache_dir: where downloads from the hub are kept.
        access: how the source is reached; None for the usual servers and credentials.

    Raises:
        InputError: the model does not exist or can't be pruned.
        StoreError: the hub or the bucket can't be reached.
    """
    access = access or SourceAccess()
    with tempfile.TemporaryDirectory() as temporary:
        if uri.startswith("hf://"):
            return _of_directory(_from_hub(uri, revision, cache_dir, access), uri)
        if uri.startswith("s3://"):
            if uri.endswith(".gguf"):
                store, name = s3_object(uri, access)
                return _of_gguf(_header(store, name, Path(temporary)), uri)
            config = Path(temporary) / "config.json"
            try:
                config.write_bytes(open_store(uri, access.s3).read_bytes(config.name))
            except ObjectNotFoundError:
                raise InputError(
                    f"{uri} contains no checkpoint",
                    hint="Correct the bucket or the prefix",
                    subject=uri,
                ) from None
            return _of_directory(Path(temporary), uri)
        path = package_path(uri) if uri.startswith("pkg://") else file_url_path(uri)
        return _of_directory(path, uri) if path.is_dir() else _of_gguf(path, uri)


def _from_hub(uri: str, revision: str | None, cache_dir: Path, access: SourceAccess) -> Path:
    segments, revision = split_hf_uri(uri, revision)
    with hub_errors(uri, revision, access.prefix):
        from huggingface_hub import hf_hub_download

        config = hf_hub_download(
            "/".join(segments[:2]),
            "config.json",
            revision=revision,
            cache_dir=hub_cache_dir(cache_dir),
            token=access.token,
            endpoint=access.endpoint,
        )
    return Path(config).parent


def _of_directory(directory: Path, uri: str) -> ModelShape:
    check_config(directory)
    try:
        return from_config(json_object(directory / "config.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(uri, error) from None


def _header(store: Store, name: str, folder: Path) -> Path:
    """Return a file of the object's size that holds only the object's beginning."""
    found = store.stat(name)
    if found is None:
        raise InputError(
            f"{store.describe(name)} does not exist", hint="Correct the bucket or the key"
        )
    path = folder / "model.gguf"
    left = min(found.size, _HEADER_BYTES)
    with path.open("wb") as file, store.open_range(name, 0, found.etag) as body:
        while left > 0 and (chunk := body.read(min(left, 1 << 20))):
            file.write(chunk)
            left -= len(chunk)
    os.truncate(path, found.size)
    return path


def _of_gguf(path: Path, uri: str) -> ModelShape:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata: dict[str, Any] = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("tokenizer.")
        }
        tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
        # A split file may have its head in another shard; then the estimate is a little low.
        tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
        return from_gguf(metadata, tokens=tokens, tied=tied)
    except Exception as error:  # a malformed file can raise anything in the reader and in numpy
        raise _unreadable(uri, error) from None


def _unreadable(uri: str, error: Exception) -> InputError:
    return InputError(
        f"The sizes of the model {uri} can't be read ({type(error).__name__}: {str(error)[:100]})",
        hint="Use a Hugging Face checkpoint or a GGUF file",
        subject="spec.baseModel.uri",
    )
