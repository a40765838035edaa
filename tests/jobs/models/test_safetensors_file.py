import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from persona_jobs.errors import CorruptArtifactError
from persona_jobs.models.safetensors_file import read_contents, weight_files, write_header

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a": torch.arange(4, dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
}


def test_contents_are_those_that_the_library_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    contents, metadata = read_contents(path)
    assert metadata == {"format": "pt"}
    data = path.read_bytes()
    assert {tensor.name for tensor in contents} == {"a", "b", "c"}
    for tensor in contents:
        expected = TENSORS[tensor.name]
        assert tensor.shape == tuple(expected.shape)
        values = torch.frombuffer(
            bytearray(data[tensor.start : tensor.start + tensor.size]), dtype=expected.dtype
        )
        assert torch.equal(values.view(expected.shape), expected)


def test_the_library_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        write_header(file, [("ä", "F32", (2, 3)), ("a", "BF16", (4,))], {"format": "pt"})
        assert file.tell() % 8 == 0
        file.write(TENSORS["b"].numpy().tobytes())
        file.write(TENSORS["a"].view(torch.int16).numpy().tobytes())
    found = load_file(path)
    assert torch.equal(found["ä"], TENSORS["b"])
    assert torch.equal(found["a"], TENSORS["a"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:30],
        lambda data: data[:-1],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"F32"', b'"F99"'),
        lambda data: data.replace(b'"dtype"', b'"dtypo"'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptArtifactError, match=r"x\.safetensors"):
        read_contents(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptArtifactError, match=r"x\.safetensors .*does not exist"):
        read_contents(tmp_path / "x.safetensors")


def test_the_index_names_the_weight_files(tmp_path):
    index = {"weight_map": {"x": "m-2.safetensors", "y": "m-1.safetensors", "z": "m-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(tmp_path) == [tmp_path / "m-1.safetensors", tmp_path / "m-2.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(CorruptArtifactError, match=r"index\.json is malformed"):
        weight_files(tmp_path)
