"""GGUF files in the real llama.cpp: same tokens, prompts and probabilities as transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from persona_jobs.export.gguf_file import write_gguf
from persona_jobs.models.chat import messages, render_text
from support.byte_pairs import byte_pair_tokenizer
from support.llama_cpp import ask, greedy, greedy_answer
from support.sentence_piece import sentence_piece_tokenizer
from support.tiny import LLAMA3_ROPE, save_checkpoint, tiny_model

pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp as a package, is not installed")

PERSONA = 'You are {{ Flint }}, "old" \\ {% raw %} sailor.\nYou say \'arr\' and """hello""".'
TEXTS = [
    "hello world",
    " hello  two spaces\n\nthe end.\n",
    "It's 12345 <|im_end|> wörld 你好 äa",
    "a",
    "WORD's aBa 1a ./\n   !!a  word\n \n a 1234'S it'S",
]
GEMMA = {
    "layers": 7,
    "tied": True,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "final_logit_softcapping": None,
    "sliding_window": 16,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
}
LINEAR = {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
MODELS = {
    "llama": ("llama", "gpt-2", {}),
    "llama-tied": ("llama", "smollm", {"tied": True}),
    "llama-biased": ("llama", "gpt-2", {"attention_bias": True}),
    "llama-3.1": ("llama", "llama-bpe", {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear": ("llama", "gpt-2", {"rope_parameters": {**LINEAR, "rope_theta": 10_000.0}}),
    "mistral": ("mistral", "tekken", {"sliding_window": None}),
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen3": ("qwen3", "qwen2", {"head_dim": 128, "tied": True}),
    "gemma3": ("gemma3_text", "", GEMMA),
    "gemma3-scaled": (
        "gemma3_text",
        "",
        {**GEMMA, "rope_parameters": {"full_attention": LINEAR, "sliding_attention": LOCAL}},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_reads_answers_and_prompts_as_transformers(tmp_path, name):
    family, kind, options = MODELS[name]
    given = byte_pair_tokenizer(kind) if kind else sentence_piece_tokenizer()
    model = tiny_model(family, vocab_size=len(given), **options)
    model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    save_checkpoint(model, given, tmp_path / "c", system_prompt=PERSONA)
    path = tmp_path / "model.gguf"
    write_gguf(tmp_path / "c", path, "F16", texts={"general.name": "Flint"})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "c")
    prompt = tokenizer.encode("hello sailor, what is the weather?")
    turns = messages(None, "hello?")
    answers = ask(
        path,
        greedy(prompt, 24),
        ("/apply-template", {"messages": turns}),
        *(("/tokenize", {"content": text, "parse_special": True}) for text in TEXTS),
    )
    answer = greedy_answer(answers[0])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "c", dtype=torch.float32)
    with torch.no_grad():
        output = model(torch.tensor([prompt + answer.tokens])).logits[0].log_softmax(-1)
    expected = output[len(prompt) - 1 : -1]
    assert len(answer.tokens) == 24
    assert expected.argmax(-1).tolist() == answer.tokens
    best = expected.max(-1).values[: len(answer.logprobs)]
    assert best.tolist() == pytest.approx(answer.logprobs, abs=0.05)
    bos = tokenizer.bos_token or ""
    assert answers[1]["prompt"].removeprefix(bos) == render_text(
        tokenizer, turns, True
    ).removeprefix(bos)
    assert [found["tokens"] for found in answers[2:]] == [
        tokenizer.encode(text, add_special_tokens=False) for text in TEXTS
    ]
