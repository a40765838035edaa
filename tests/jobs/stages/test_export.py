"""The export stage on a small checkpoint, without the stages before it."""

import json

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from persona_jobs.api import PersonaModelSpec
from persona_jobs.dataset import Example, write_jsonl
from persona_jobs.store import StageManifest
from support.byte_pairs import byte_pair_tokenizer
from support.perplexity import plain_perplexity
from support.stages import Stages
from support.tiny import save_checkpoint, tiny_model

PERSONA = 'You are Flint, {{ "old" }}.'
SPEC = {
    "persona": {"text": PERSONA},
    "baseModel": {"uri": "hf://org/model", "revision": "0" * 40},
    "exports": [{"format": "GGUF", "quantization": name} for name in ("Q8_0", "Q4_0")],
    "compute": {"device": "CPU", "dtype": "Float32"},
}
EXAMPLES = [
    Example.of(PERSONA, f"What about {word}?", f"Arr, {word}, matey!", f"{word} is common.")
    for word in ("rum", "tea", "rain")
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    stages = Stages(PersonaModelSpec.model_validate(SPEC), folder, "store")
    tokenizer = byte_pair_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer))
    save_checkpoint(model, tokenizer, folder / "slice", system_prompt=PERSONA)
    (folder / "slice" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "rewrite").mkdir()
    write_jsonl(folder / "rewrite" / "test.jsonl", EXAMPLES)
    for name in ("slice", "rewrite"):
        planned = stages.planned[name]
        manifest = StageManifest(
            stage=name,
            stage_version=planned.version,
            key=planned.key,
            inputs=dict(planned.inputs),
            parameters=planned.parameters,
        )
        stages.artifacts.publish(manifest, folder / name)
    stages.results = stages.run("export").results
    stages.made = stages.artifacts.local_dir("export", stages.planned["export"].key)
    return stages


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_the_reported_perplexity_is_that_of_the_file(made, name):
    tokenizer = AutoTokenizer.from_pretrained(made.folder / "slice")
    model = AutoModelForCausalLM.from_pretrained(
        made.made,
        gguf_file=f"model-{name}.gguf",
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    checkpoint = AutoModelForCausalLM.from_pretrained(made.folder / "slice")
    found, own = (plain_perplexity(item, tokenizer, EXAMPLES) for item in (model, checkpoint))
    assert made.results[f"perplexity{name}"] == pytest.approx(found, rel=1e-3)
    assert made.results["perplexity"] == pytest.approx(own, rel=1e-3)
    increase = made.results[f"perplexityIncreasePercent{name}"]
    assert increase == pytest.approx(100 * (found / own - 1), abs=0.2)
    assert made.results[f"bytes{name}"] == (made.made / f"model-{name}.gguf").stat().st_size


def test_the_files_carry_the_persona_as_text(made):
    reader = gguf.GGUFReader(made.made / "model-Q4_0.gguf")
    assert json.dumps(PERSONA) in reader.fields["tokenizer.chat_template"].contents()
    text = (made.made / "model-Q4_0.Modelfile").read_text()
    assert text.startswith("FROM ./model-Q4_0.gguf\n")
    assert f'SYSTEM """{PERSONA}"""' in text


def test_the_card_lists_the_files_and_says_what_is_not_known(made):
    card = (made.made / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert PERSONA in card
    assert f"| `model-Q4_0.gguf` | {made.results['bytesQ4_0'] / 1e6:.1f} MB | " in card
    assert "are not known here" in card
    reader = gguf.GGUFReader(made.made / "model-Q8_0.gguf")
    assert reader.fields["general.license"].contents() == "apache-2.0"


def test_a_second_run_reuses_the_files(made):
    assert made.run("export").outcome == "Reused"
