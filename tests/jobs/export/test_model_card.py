"""The model card: what is known, what isn't, and nothing that doesn't belong there."""

import re

import pytest
import yaml

from persona_jobs.export.model_card import CardFacts, ExportedFile, licence_of, model_card
from persona_jobs.pipeline.results import EvaluationMetrics, RecoveryMetrics, VariantMetrics

SLICED = {
    "width": 1152,
    "parameters": 114_600_000,
    "denseParameters": 134_500_000,
    "checkpointBytes": 229_000_000,
    "denseCheckpointBytes": 98_000_000,
    "parametersRemovedPercent": 14.8,
}
RECOVERY = RecoveryMetrics(
    persona_kl_before=0.687, persona_kl=0.432, generic_kl_before=0.9, generic_kl=0.6,
    kept=["refit"], left_out=[], train_examples=9, generic_examples=9, held_out_examples=3,
    warnings=[], parts=[],
)  # fmt: skip
EVALUATION = EvaluationMetrics(
    served="recovered",
    chance_persona_score=10.0,
    queries=8,
    variants={
        "dense": VariantMetrics(parameters=2, checkpoint_bytes=4, persona_score=88.2),
        "recovered": VariantMetrics(
            parameters=1, checkpoint_bytes=2, persona_score=89.3, persona_score_low=75.0,
            persona_score_high=99.0, generic_loss=3.55,
        ),
    },
)  # fmt: skip


def facts(**changes):
    given = {
        "base_uri": "hf://org/Model-1B",
        "base_revision": "abc",
        "licence": {"license": "apache-2.0"},
        "persona": "You are Flint.",
        "sparsity_percent": 25,
        "method": "OptimalBrainSurgeon",
        "sliced": SLICED,
    }
    return CardFacts(**{**given, **changes})


def header(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def test_the_header_is_what_the_hub_reads():
    assert header(model_card(facts())) == {
        "base_model": "org/Model-1B",
        "base_model_relation": "finetune",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["persona-pruner", "pruned", "role-play"],
    }
    files = (ExportedFile("model-Q8_0.gguf", "Q8_0", 120_000_000, 0.123),)
    exported = header(model_card(facts(files=files)))
    assert exported["library_name"] == "gguf"
    assert exported["base_model_relation"] == "quantized"


def test_a_checkpoints_card_says_what_is_not_known_yet():
    card = model_card(facts(recovery=RECOVERY))
    assert "1152 kept per layer" in card
    assert "114,600,000 of 134,500,000 (14.8 % removed)" in card
    assert "0.687 before the recovery, 0.432 after it" in card
    assert "are not known here: the evaluation runs after this card is written" in card


def test_the_evaluations_figures_have_their_interval_and_the_dense_models_beside_them():
    card = model_card(facts(evaluation=EVALUATION))
    assert "| 89.3 [75–99] | 88.2 |" in card
    assert "| loss on general answers, nats per token | 3.550 | not measured |" in card
    assert "not known here" not in card


def test_files_are_listed_with_what_rounding_costs():
    files = (
        ExportedFile("model-F16.gguf", "F16", 230_000_000, None),
        ExportedFile("model-Q4_0.gguf", "Q4_0", 80_000_000, 4.5),
    )
    card = model_card(facts(files=files))
    assert "| `model-F16.gguf` | 230.0 MB | not measured |" in card
    assert "| `model-Q4_0.gguf` | 80.0 MB | +4.50 % |" in card
    assert "ollama create persona -f model-F16.Modelfile" in card


@pytest.mark.parametrize(
    "uri", ["file:///home/jane/private/model-1b", "s3://secret-bucket/x/model-1b"]
)
def test_where_a_base_model_was_read_from_is_not_in_the_card(uri):
    card = model_card(facts(base_uri=uri, licence={}))
    assert "model-1b" in card
    assert "private" not in card
    assert "secret-bucket" not in card
    assert "base_model" not in header(card)
    assert "licence is not known here" in card


def test_a_persona_cannot_leave_its_block():
    card = model_card(facts(persona="Hi.\n```\n# Injected\n````\nlicense: mit"))
    fence = re.search(r"^(`{3,})text$", card, re.MULTILINE)[1]
    assert fence == "`" * 5
    assert header(card)["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "---\nlicense: llama3.2\nlicense_link: https://x\n---\nText",
            {"license": "llama3.2", "license_link": "https://x"},
        ),
        ("---\nlicense:\n- mit\n- gpl\n---\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("license: mit\n", {}),
        ("---\nlicense: !!python/object:os.system x\n---\n", {}),
        ("---\n- a\n---\n", {}),
    ],
)  # fmt: skip
def test_the_licence_is_read_from_the_base_models_card(tmp_path, text, expected):
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path / "README.md") == expected
    assert licence_of(tmp_path / "missing.md") == {}
