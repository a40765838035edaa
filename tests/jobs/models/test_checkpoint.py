import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from persona_jobs.models.checkpoint import save_checkpoint
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from support.tiny import VOCABULARY, tiny_model, tiny_tokenizer

VARIANTS = {
    "llama": ("llama", {}),
    "llama-bias": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "llama-tied": ("llama", {"tied": True}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tied": True}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tied": True, "attention_bias": True}),
}
IDS = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
# A user's program: transformers without this project.
FRESH = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

root, ids, names = sys.argv[1], torch.tensor(json.loads(sys.argv[2])), sys.argv[3:]
logits, rendered = {}, {}
for name in names:
    model = AutoModelForCausalLM.from_pretrained(f"{root}/{name}")
    assert model.dtype is torch.float32, model.dtype
    logits[name] = model(ids).logits.detach()
    tokenizer = AutoTokenizer.from_pretrained(f"{root}/{name}")
    rendered[name] = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
assert not any(name.startswith("persona") for name in sys.modules)
save_file(logits, f"{root}/logits.safetensors")
json.dump(rendered, open(f"{root}/rendered.json", "w"))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Masked logits in this process, and the sliced checkpoints' logits in a fresh one."""
    root = tmp_path_factory.mktemp("checkpoints")
    expected = {}
    for name, (family, options) in VARIANTS.items():
        model = tiny_model(family, seed=3, **options)
        scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
        mask = top_k_mask(scores, 40)
        with masked(model, mask):
            expected[name] = model(IDS).logits
        slice_model(model, mask)
        save_checkpoint(model, tiny_tokenizer(), root / name, system_prompt="You are Ada.")
    command = [sys.executable, "-c", FRESH, str(root), json.dumps(IDS.tolist()), *VARIANTS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "not initialized" not in done.stderr
    return root, expected


@pytest.mark.parametrize("name", VARIANTS)
def test_a_fresh_process_computes_the_masked_models_logits(fresh, name):
    root, expected = fresh
    got = load_file(root / "logits.safetensors")[name]
    torch.testing.assert_close(got, expected[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_fresh_process_renders_the_persona(fresh, name):
    root, _ = fresh
    rendered = json.loads((root / "rendered.json").read_text())[name]
    assert rendered == (
        "<|im_start|>system\nYou are Ada.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_has_the_files_of_its_architecture(fresh, name):
    root, _ = fresh
    directory = root / name
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in directory.iterdir())
    config = json.loads((directory / "config.json").read_text())
    assert config["intermediate_size"] == 40
    assert config["architectures"] == [type(tiny_model(VARIANTS[name][0])).__name__]
    weights = load_file(directory / "model.safetensors")
    assert ("lm_head.weight" in weights) is ("tied" not in name)
    assert weights["model.layers.2.mlp.down_proj.weight"].shape == (32, 40)


def test_no_local_path_is_saved(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    secret = str(tmp_path / "where-it-was")
    model.config._name_or_path = secret
    tokenizer.name_or_path = secret
    tokenizer.init_kwargs.update(name_or_path=secret, local_files_only=True)
    save_checkpoint(model, tokenizer, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert b"where-it-was" not in path.read_bytes(), path.name
    assert "local_files_only" not in (tmp_path / "out" / "tokenizer_config.json").read_text()


@pytest.mark.parametrize("tied", [False, True])
def test_saving_leaves_the_model_unchanged_and_keeps_its_format(tmp_path, tied):
    model, tokenizer = tiny_model(tied=tied).to(torch.bfloat16), tiny_tokenizer()
    before, template = model(IDS).logits, tokenizer.chat_template
    save_checkpoint(model, tokenizer, tmp_path / "a" / "b", system_prompt="x")
    assert torch.equal(model(IDS).logits, before)
    assert tokenizer.chat_template == template
    saved = load_file(tmp_path / "a" / "b" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert ("lm_head.weight" in saved) is not tied
    assert json.loads((tmp_path / "a/b/config.json").read_text())["dtype"] == "bfloat16"
    for name, value in model.state_dict().items():
        if name in saved:
            assert torch.equal(saved[name], value)


def test_the_generation_configuration_is_saved(tmp_path):
    model = tiny_model()
    model.generation_config.eos_token_id = [5, 6]
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.7
    save_checkpoint(model, tiny_tokenizer(), tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert (saved["eos_token_id"], saved["temperature"]) == ([5, 6], 0.7)
