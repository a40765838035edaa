"""The shape of a base model is read without its weights, wherever the model is."""

import shutil
from pathlib import Path

import pytest

from persona_jobs.errors import InputError
from persona_jobs.sources.model_shape import model_shape
from persona_jobs.store import Store
from support.tiny_checkpoint import tiny_llama


@pytest.fixture(scope="module")
def count() -> int:
    return sum(parameter.numel() for parameter in tiny_llama().parameters())


def test_of_a_directory_without_weights(tiny_checkpoint: Path, tmp_path: Path, count: int) -> None:
    shutil.copy(tiny_checkpoint / "config.json", tmp_path)
    shape = model_shape(tmp_path.as_uri(), None, cache_dir=tmp_path)
    assert (shape.parameters, shape.stored_bytes) == (count, 4)


def test_of_a_gguf_file(tiny_gguf: Path, tmp_path: Path, count: int) -> None:
    shape = model_shape(tiny_gguf.as_uri(), None, cache_dir=tmp_path)
    assert (shape.parameters, shape.stored_bytes) == (count, 2)


def test_of_a_bucket(
    bucket: Store, tiny_checkpoint: Path, tiny_gguf: Path, tmp_path: Path, count: int
) -> None:
    bucket.upload("model/config.json", tiny_checkpoint / "config.json")
    bucket.upload("tiny.gguf", tiny_gguf)
    for uri in (f"{bucket.url}/model", f"{bucket.url}/tiny.gguf"):
        assert model_shape(uri, None, cache_dir=tmp_path).parameters == count
    assert not list(tmp_path.iterdir()), "nothing is downloaded into the cache"


def test_what_is_no_model_is_named(tmp_path: Path, bucket: Store) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "llama"}')
    for uri, message in (
        ((tmp_path / "model.gguf").as_uri(), "can't be read"),
        ((tmp_path / "folder").as_uri(), "num_attention_heads"),
        (f"{bucket.url}/absent", "contains no checkpoint"),
        (f"{bucket.url}/absent.gguf", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            model_shape(uri, None, cache_dir=tmp_path)
