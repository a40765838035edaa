import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from persona_jobs.errors import InputError
from persona_jobs.models.chat import end_of_turn
from persona_jobs.models.generation import stop_tokens
from persona_jobs.sources import gguf
from support.tiny_checkpoint import save_gguf
from support.tiny_gguf import TOKENS, save_gemma3_gguf, tiny_gemma3


def test_the_conversion_computes_what_the_model_does(tmp_path: Path) -> None:
    save_gemma3_gguf(tmp_path / "x.gguf")
    directory = gguf.convert(tmp_path / "x.gguf", tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    original = tiny_gemma3()
    assert model.config.layer_types == original.config.layer_types
    assert model.config.rope_parameters == original.config.rope_parameters
    ids = torch.arange(20, 44).unsqueeze(0)  # longer than the window
    expected = original.to(torch.bfloat16).float()(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0.05)
    assert expected.std() > 1


def test_an_answers_end_is_an_end_of_generation(tmp_path: Path) -> None:
    save_gemma3_gguf(tmp_path / "x.gguf")
    directory = gguf.convert(tmp_path / "x.gguf", tmp_path / "cache")
    saved = json.loads((directory / "generation_config.json").read_text())
    end = TOKENS.index("<end_of_turn>")
    assert saved["eos_token_id"] == [TOKENS.index("<eos>"), end]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert end_of_turn(tokenizer) == end
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert stop_tokens(model, tokenizer) == {TOKENS.index("<eos>"), end}


def test_linear_scaling_is_that_of_the_layers_that_see_all_tokens(tmp_path: Path) -> None:
    def scale(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)

    save_gemma3_gguf(tmp_path / "x.gguf", change=scale)
    config = AutoConfig.from_pretrained(gguf.convert(tmp_path / "x.gguf", tmp_path / "cache"))
    assert config.rope_parameters == {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }


def test_another_head_size_is_refused(tmp_path: Path) -> None:
    """Gemma 3 27B scales its attention scores by another number, which the file does not hold."""
    save_gemma3_gguf(tmp_path / "x.gguf", key_length=128)
    with pytest.raises(InputError, match=r"gemma3\.attention\.key_length = 128") as caught:
        gguf.convert(tmp_path / "x.gguf", tmp_path / "cache")
    assert caught.value.exit_code == 2


def test_other_metadata_is_refused(tmp_path: Path) -> None:
    save_gemma3_gguf(
        tmp_path / "x.gguf", change=lambda writer: writer.add_final_logit_softcapping(30.0)
    )
    with pytest.raises(InputError, match="final_logit_softcapping = 30"):
        gguf.convert(tmp_path / "x.gguf", tmp_path / "cache")


@pytest.mark.parametrize("architecture", ["gemma2", "phi3", "qwen2moe", "gemma4"])
def test_families_whose_values_would_be_lost_are_refused(tmp_path: Path, architecture: str) -> None:
    save_gguf(tmp_path / "x.gguf", architecture=architecture)
    with pytest.raises(InputError, match=f"its architecture is '{architecture}'") as caught:
        gguf.convert(tmp_path / "x.gguf", tmp_path / "cache")
    assert caught.value.hint.startswith("Use a GGUF file of the architecture gemma3, llama")
