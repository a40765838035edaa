"""`persona export` and `spec.exports`, from the run to the files on a player's machine."""

import json
import re
from pathlib import Path

import gguf
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from persona_jobs.dataset import Example, read_jsonl
from support.byte_pairs import byte_pair_tokenizer
from support.local_pipeline import PERSONA, manifest, persona, write_instructions, write_manifest
from support.perplexity import plain_perplexity
from support.tiny import save_checkpoint, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    tokenizer = byte_pair_tokenizer()
    save_checkpoint(tiny_model(vocab_size=len(tokenizer)), tokenizer, folder / "base")
    (folder / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    write_instructions(folder / "instructions.jsonl")
    return folder


@pytest.fixture(scope="module")
def run(folder, teacher):
    exports = [{"format": "GGUF", "quantization": name} for name in ("Q8_0", "Q4_0")]
    file = write_manifest(folder, manifest(folder, teacher.url, exports=exports))
    result = persona(folder, "run", file, "-o", "json")
    assert result.returncode == 0, result.stderr
    stages = {stage["stage"]: stage for stage in json.loads(result.stdout)["stages"]}
    assert list(stages)[-1] == "export"
    return stages


def path_of(run, stage):
    return Path(run[stage]["path"].removeprefix("file://"))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_the_reported_perplexity_is_that_of_the_file(run, name):
    metrics, made = run["export"]["metrics"], path_of(run, "export")
    model = AutoModelForCausalLM.from_pretrained(
        made,
        gguf_file=f"model-{name}.gguf",
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(path_of(run, "slice"))
    examples = read_jsonl(path_of(run, "rewrite") / "test.jsonl", Example)
    expected = plain_perplexity(model, tokenizer, examples)
    assert metrics[f"perplexity{name}"] == pytest.approx(expected, rel=1e-3)
    increase = 100 * (metrics[f"perplexity{name}"] / metrics["perplexity"] - 1)
    assert metrics[f"perplexityIncreasePercent{name}"] == pytest.approx(increase, abs=1e-3)
    assert metrics[f"bytes{name}"] == (made / f"model-{name}.gguf").stat().st_size


def test_the_file_carries_the_persona(run):
    reader = gguf.GGUFReader(path_of(run, "export") / "model-Q4_0.gguf")
    assert json.dumps(PERSONA)[1:-1] in reader.fields["tokenizer.chat_template"].contents()
    text = (path_of(run, "export") / "model-Q4_0.Modelfile").read_text()
    assert text.startswith("FROM ./model-Q4_0.gguf\n")
    assert PERSONA in text


def test_export_copies_what_the_run_made(run, folder):
    result = persona(folder, "export", folder / "persona.yaml", "-o", folder / "all")
    assert result.returncode == 0, result.stderr
    made = path_of(run, "export")
    for line in result.stdout.splitlines():
        assert Path(line).parent == folder / "all"
    for name in ("Q8_0", "Q4_0"):
        for suffix in ("gguf", "Modelfile"):
            copied = folder / "all" / f"model-{name}.{suffix}"
            assert copied.read_bytes() == (made / copied.name).read_bytes()
    assert "reused" in result.stderr


def card(path):
    text = (path / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1]), text


def test_every_form_of_the_model_carries_a_card(run, folder):
    header, text = card(path_of(run, "slice"))
    assert header["license"] == "apache-2.0"
    assert f"{run['slice']['metrics']['parameters']:,} of" in text
    assert "are not known here" in text
    _, exported = card(path_of(run, "export"))
    assert "| `model-Q4_0.gguf` | " in exported
    assert "are not known here" in exported
    for written in (text, exported):
        assert PERSONA in written
        assert str(folder) not in written
        assert "sk-secret" not in written


def test_the_copy_has_the_evaluations_figures(run, folder):
    result = persona(folder, "export", folder / "persona.yaml", "-o", folder / "measured")
    assert result.returncode == 0, result.stderr
    _, text = card(folder / "measured")
    served = run["evaluate"]["metrics"]["variants"][run["evaluate"]["metrics"]["served"]]
    score = f"{served['personaScore']:.1f}"
    if "personaScoreLow" in served:
        score += f" [{served['personaScoreLow']:.0f}–{served['personaScoreHigh']:.0f}]"
    assert f"| persona score, 0 to 100 [95 % interval] | {score} | " in text
    assert "are not known here" not in text


def test_export_makes_another_number_format(run, folder):
    target = folder / "half"
    result = persona(
        folder, "export", folder / "persona.yaml", "--format", "gguf", "--quantization", "f16",
        "-o", target,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert {path.suffix for path in target.iterdir()} >= {".gguf", ".Modelfile"}
    reader = gguf.GGUFReader(target / "model-F16.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"


def test_export_needs_a_finished_checkpoint(folder, teacher):
    document = manifest(folder, teacher.url, persona={"text": "You are Captain Hook."})
    other = folder / "other.json"
    other.write_text(json.dumps(document))
    result = persona(folder, "export", other)
    assert result.returncode == 2
    assert "There is no checkpoint for this PersonaModel yet" in result.stderr
    assert f"Run `persona run {other}` first" in result.stderr
