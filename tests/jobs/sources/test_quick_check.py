"""The check of a base model without its weights."""

import json
import socket
from pathlib import Path

import pytest

from persona_jobs.errors import CorruptArtifactError, InputError
from persona_jobs.sources.quick_check import check_base_model
from support.tiny_checkpoint import save_gguf


def config(folder: Path, **fields: object) -> str:
    folder.mkdir()
    document = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **fields}
    (folder / "config.json").write_text(json.dumps(document))
    return folder.as_uri()


def test_a_configuration_is_enough(tmp_path: Path) -> None:
    assert check_base_model(config(tmp_path / "model")) == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "quantized model"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "can't be pruned"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "custom code"),
    ],
)
def test_an_unusable_model_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_base_model(config(tmp_path / "model", **fields))


def test_a_gguf_file_is_checked_by_its_header(tmp_path: Path) -> None:
    save_gguf(tmp_path / "good.gguf")
    assert check_base_model((tmp_path / "good.gguf").as_uri()) == ""
    save_gguf(tmp_path / "other.gguf", architecture="gemma")
    with pytest.raises(InputError, match="its architecture is 'gemma'"):
        check_base_model((tmp_path / "other.gguf").as_uri())
    whole = (tmp_path / "good.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptArtifactError):
        check_base_model((tmp_path / "cut.gguf").as_uri())


@pytest.mark.parametrize(
    "uri",
    ["hf://org/model", "s3://bucket/model", "file:///absent/model", "pkg://absent/m.gguf"],
)
def test_what_is_not_on_this_machine_is_said_and_not_fetched(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert check_base_model(uri) == "it is not on this machine"
