import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from persona_jobs.errors import CorruptArtifactError
from persona_jobs.models import checkpoint_slicing
from persona_jobs.models.checkpoint import save_tokenizer, write_config
from persona_jobs.models.checkpoint_slicing import kept_tensors, recovered_tensors, slice_weights
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.loading import empty_model, load_config
from persona_jobs.models.masking import masked
from persona_jobs.models.safetensors_file import read_contents, weight_files
from persona_jobs.models.slicing import slice_model
from persona_jobs.models.topk import top_k_mask
from support.tiny import VARIANTS, VOCABULARY, tiny_model, tiny_tokenizer

IDS = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = top_k_mask(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)), 40)
# A user's program: transformers without this project.
FRESH = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

root, ids, names = sys.argv[1], torch.tensor(json.loads(sys.argv[2])), sys.argv[3:]
logits, rendered = {}, {}
for name in names:
    model = AutoModelForCausalLM.from_pretrained(f"{root}/{name}/sliced")
    assert model.dtype is torch.float32, model.dtype
    logits[name] = model(ids).logits.detach()
    tokenizer = AutoTokenizer.from_pretrained(f"{root}/{name}/sliced")
    rendered[name] = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
assert not any(name.startswith("persona") for name in sys.modules)
save_file(logits, f"{root}/logits.safetensors")
json.dump(rendered, open(f"{root}/rendered.json", "w"))
"""


def slice_directory(
    base, target, mask=MASK, *, scales=None, recovered=None, on_tensor=lambda: None
):
    model = empty_model(load_config(base))
    target.mkdir(parents=True)
    kept = kept_tensors(model, mask, scales)
    replaced = {} if recovered is None else recovered_tensors(model, recovered)
    slice_weights(base, target, kept, replaced, on_tensor=on_tensor)
    write_config(base, target, intermediate_size=int(mask[0].sum()), dtype="float32")
    save_tokenizer(tiny_tokenizer(), target, system_prompt="You are Ada.")


def weights_of(directory):
    return {k: v for path in weight_files(directory) for k, v in load_file(path).items()}


def expected_weights(model, mask=MASK, scales=None):
    slice_model(model, mask, scales=scales)
    tied = model.config.tie_word_embeddings
    return {k: v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Masked logits in this process, and the sliced checkpoints' logits in a fresh one."""
    root = tmp_path_factory.mktemp("checkpoints")
    expected = {}
    for name, (family, options) in VARIANTS.items():
        model = tiny_model(family, seed=3, **options)
        model.save_pretrained(root / name / "base")
        with masked(model, MASK):
            expected[name] = model(IDS).logits
        slice_directory(root / name / "base", root / name / "sliced")
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
# A few rows, part of a row, everything at once.
@pytest.mark.parametrize("piece", [700, 8, 1 << 20])
def test_the_weights_are_those_of_the_sliced_model(
    tmp_path, monkeypatch, name, dtype, shard, piece
):
    monkeypatch.setattr(checkpoint_slicing, "PIECE_BYTES", piece)
    family, options = VARIANTS[name]
    model = tiny_model(family, **options).to(dtype)
    model.save_pretrained(tmp_path / "base", max_shard_size=shard)
    slice_directory(tmp_path / "base", tmp_path / "sliced")
    assert_same(weights_of(tmp_path / "sliced"), expected_weights(model))


def test_a_checkpoint_in_several_files_keeps_them_and_their_index(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base", max_shard_size="20KB")
    slice_directory(tmp_path / "base", tmp_path / "sliced")
    base, sliced = weight_files(tmp_path / "base"), weight_files(tmp_path / "sliced")
    assert len(base) > 3
    assert [path.name for path in sliced] == [path.name for path in base]
    name = "model.safetensors.index.json"
    before, after = (json.loads((tmp_path / f / name).read_text()) for f in ("base", "sliced"))
    assert after["weight_map"] == before["weight_map"]
    tensors = [tensor for path in sliced for tensor in read_contents(path)[0]]
    assert after["metadata"]["total_size"] == sum(tensor.size for tensor in tensors)
    assert all(read_contents(path)[1] == {"format": "pt"} for path in sliced)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scales_are_folded_into_down(tmp_path, dtype):
    model = tiny_model().to(dtype)
    model.save_pretrained(tmp_path / "base")
    scales = 0.5 + torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    slice_directory(tmp_path / "base", tmp_path / "sliced", scales=scales)
    assert_same(weights_of(tmp_path / "sliced"), expected_weights(model, scales=scales))


def test_recovered_weights_replace_the_kept_ones(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    mlp = "model.layers.{}.mlp.{}_proj.weight"
    recovered = {mlp.format(i, "down"): torch.randn(32, 40) for i in (0, 2)}
    recovered |= {
        mlp.format(1, "gate"): torch.randn(40, 32),
        "model.embed_tokens.weight": torch.randn_like(model.get_input_embeddings().weight),
    }
    save_file(recovered, tmp_path / "recovered.safetensors")
    slice_directory(
        tmp_path / "base", tmp_path / "sliced", recovered=tmp_path / "recovered.safetensors"
    )
    assert_same(weights_of(tmp_path / "sliced"), {**expected_weights(model), **recovered})


@pytest.mark.parametrize("fault", ["shape", "unknown"])
def test_recovered_weights_that_do_not_fit_are_refused(tmp_path, fault):
    tiny_model().save_pretrained(tmp_path / "base")
    layer, width = (1, 41) if fault == "shape" else (3, 40)
    name = f"model.layers.{layer}.mlp.down_proj.weight"
    path = tmp_path / "recovered.safetensors"
    save_file({name: torch.randn(32, width)}, path)
    with pytest.raises(
        CorruptArtifactError, match=rf"recovered\.safetensors.*{name}|{name} in .*recovered"
    ):
        slice_directory(tmp_path / "base", tmp_path / "sliced", recovered=path)


def test_a_file_without_the_decoders_prefix_is_sliced_too(tmp_path):
    model = tiny_model(tied=True)
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base/model.safetensors"
    short = {name.removeprefix("model."): value for name, value in load_file(path).items()}
    save_file(short, path, metadata={"format": "pt"})
    slice_directory(tmp_path / "base", tmp_path / "sliced")
    expected = expected_weights(model)
    found = weights_of(tmp_path / "sliced")
    assert_same({f"model.{name}": value for name, value in found.items()}, expected)


def test_a_missing_tensor_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    path = tmp_path / "base/model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path)
    with pytest.raises(CorruptArtifactError, match=r"no model\.layers\.1\.mlp\.up_proj\.weight"):
        slice_directory(tmp_path / "base", tmp_path / "sliced")


def test_a_tensor_of_another_shape_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    path = tmp_path / "base/model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(63, 32)
    save_file(weights, path)
    with pytest.raises(CorruptArtifactError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        slice_directory(tmp_path / "base", tmp_path / "sliced")


def test_it_can_be_interrupted_after_every_tensor(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    seen = []

    def interrupt():
        seen.append(1)
        if len(seen) == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        slice_directory(tmp_path / "base", tmp_path / "sliced", on_tensor=interrupt)
    assert len(seen) == 5


def test_slicing_does_not_need_the_model_in_memory(tmp_path):
    """Several times the pieces, but not the checkpoint of 100 MB, beside what imports take."""
    tiny_model(layers=2, hidden=256, intermediate_size=32768).save_pretrained(tmp_path / "base")
    program = """
import sys
from pathlib import Path
import torch
from persona_jobs.models import checkpoint_slicing as it
from persona_jobs.models.loading import empty_model, load_config
base, target = map(Path, sys.argv[1:])
it.PIECE_BYTES = 1 << 20
model = empty_model(load_config(base))
mask = torch.zeros(2, 32768, dtype=torch.bool)
mask[:, ::2] = True
kept = it.kept_tensors(model, mask, None)
def memory(field):  # KiB; ru_maxrss would begin with the parent's memory
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
before = memory("VmRSS")
it.slice_weights(base, target, kept, {}, on_tensor=lambda: None)
print(memory("VmHWM") - before)
"""
    (tmp_path / "sliced").mkdir()
    command = [sys.executable, "-c", program, str(tmp_path / "base"), str(tmp_path / "sliced")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    assert int(done.stdout) < 30_000, done.stdout  # KiB
    layers = ffn_layers(empty_model(load_config(tmp_path / "base")))
    sizes = [tensor.shape for tensor in read_contents(tmp_path / "sliced/model.safetensors")[0]]
    assert sizes.count((16384, 256)) == 2 * len(layers)
