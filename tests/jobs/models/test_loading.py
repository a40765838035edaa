import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from persona_jobs.errors import CorruptArtifactError, InputError
from persona_jobs.models import loading
from persona_jobs.models.compute import Compute
from support.tiny import FAMILIES, VOCABULARY, tiny_checkpoint, tiny_model

FLOAT32 = Compute(torch.device("cpu"), torch.float32, "test")
IDS = torch.arange(8).unsqueeze(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_model_is_the_saved_one_frozen(tmp_path, family, tied):
    tiny_checkpoint(tmp_path, family, seed=4, tied=tied)
    model, tokenizer = loading.load(tmp_path, FLOAT32)
    assert torch.equal(model(IDS).logits, tiny_model(family, 4, tied=tied)(IDS).logits)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.decode(tokenizer.encode("é 你")) == "é 你"
    assert len(tokenizer) == VOCABULARY


def test_the_model_is_loaded_in_the_requested_format(tmp_path):
    tiny_checkpoint(tmp_path)
    compute = Compute(torch.device("cpu"), torch.bfloat16, "test")
    assert loading.load_model(tmp_path, compute).dtype is torch.bfloat16


def test_tied_weights_count_once(tmp_path):
    untied, tied = tiny_model(), tiny_model(tied=True)
    difference = loading.parameter_count(untied) - loading.parameter_count(tied)
    assert difference == VOCABULARY * 32


def change_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        loading.load(tmp_path, FLOAT32)
    with pytest.raises(InputError, match=r"config\.json"):
        loading.load(tmp_path / "missing", FLOAT32)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "no-such-model"}', "{}"])
def test_an_unreadable_config_is_refused(tmp_path, content):
    tiny_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        loading.load(tmp_path, FLOAT32)


def test_another_architecture_is_refused_before_its_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="gpt2"):
        loading.load(tmp_path, FLOAT32)


def test_code_in_the_checkpoint_is_not_run(tmp_path):
    tiny_checkpoint(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\n")
    change_config(
        tmp_path,
        model_type="custom",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Config"},
    )
    with pytest.raises(InputError):
        loading.load(tmp_path, FLOAT32)
    assert not ran.exists()


def test_the_librarys_own_code_runs_in_place_of_the_checkpoints(tmp_path):
    tiny_checkpoint(tmp_path, "phi3")
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Phi3ForCausalLM: pass\n")
    change_config(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Phi3ForCausalLM"})
    model, _ = loading.load(tmp_path, FLOAT32)
    assert torch.equal(model(IDS).logits, tiny_model("phi3")(IDS).logits)
    assert not ran.exists()


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_weights_are_corrupt(tmp_path, keep):
    tiny_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptArtifactError, match="weights"):
        loading.load(tmp_path, FLOAT32)


def test_missing_weights_are_never_filled_with_noise(tmp_path):
    tiny_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CorruptArtifactError, match=r"missing.*layers\.1\.mlp\.up_proj"):
        loading.load(tmp_path, FLOAT32)


def test_weights_of_another_shape_are_corrupt(tmp_path):
    tiny_checkpoint(tmp_path)
    change_config(tmp_path, intermediate_size=48)
    with pytest.raises(CorruptArtifactError):
        loading.load(tmp_path, FLOAT32)


def test_pickled_weights_are_not_read(tmp_path):
    tiny_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CorruptArtifactError, match="safetensors"):
        loading.load(tmp_path, FLOAT32)


def test_a_broken_tokenizer_is_corrupt(tmp_path):
    tiny_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CorruptArtifactError, match="tokenizer"):
        loading.load(tmp_path, FLOAT32)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path)

    def fail(*_args, **_options):
        raise ModuleNotFoundError("No module named 'tiktoken'", name="tiktoken")

    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(InputError, match="The Python package tiktoken can't be imported") as caught:
        loading.load_tokenizer(tmp_path)
    assert caught.value.exit_code == 2
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(InputError, match="The Python package tiktoken can't be imported"):
        loading.load_model(tmp_path, FLOAT32)
