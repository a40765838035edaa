"""Sliced checkpoints in the real vLLM: one process without this project serves every family."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from persona_jobs.models.checkpoint import save_tokenizer, write_config
from persona_jobs.models.checkpoint_slicing import kept_tensors, slice_weights
from persona_jobs.models.loading import empty_model, load_config
from persona_jobs.models.topk import top_k_mask
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

# vLLM pins its own torch and transformers, so it usually has an environment of its own.
PYTHON = os.environ.get("VLLM_PYTHON") or (
    sys.executable if importlib.util.find_spec("vllm") else None
)
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="vLLM is not installed; VLLM_PYTHON can name the Python that has it"
)
PROMPTS = [list(range(5, 29)), list(range(100, 140)), [7, 3, 200]]
NEW_TOKENS = 12
# Windows that the prompts exceed, where vLLM has windows for the family; Gemma's head is tied.
OPTIONS = {
    "gemma2": {"sliding_window": 16, "tied": True},
    "gemma3_text": {"sliding_window": 16, "tied": True},
    "mistral": {"sliding_window": 16},
    "phi3": {"sliding_window": 2047},
}
SERVE = """
import json, sys

def main():
    from vllm import LLM, SamplingParams

    root, names = sys.argv[1], sys.argv[4:]
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])]
    params = SamplingParams(
        temperature=0, max_tokens=int(sys.argv[3]), ignore_eos=True, detokenize=False
    )
    for name in names:
        engine = LLM(
            model=f"{root}/{name}/sliced", dtype="float32", enforce_eager=True, max_model_len=64,
            max_num_seqs=4, max_num_batched_tokens=64, skip_tokenizer_init=True,
        )
        found = engine.generate(prompts, params, use_tqdm=False)
        tokens = [list(one.outputs[0].token_ids) for one in found]
        with open(f"{root}/{name}.json", "w") as file:
            json.dump(tokens, file)
        print(name, "done", flush=True)
        del engine

if __name__ == "__main__":
    assert not any(name.startswith("persona") for name in sys.modules)
    main()
"""


def make_checkpoints(root):
    mask = top_k_mask(torch.randn(2, 128, generator=torch.Generator().manual_seed(1)), 64)
    for family in FAMILIES:
        options = {"layers": 2, "hidden": 128, "intermediate_size": 128, "vocab_size": 512}
        options |= {"head_dim": 32, "max_position_embeddings": 128, **OPTIONS.get(family, {})}
        base, sliced = root / family / "base", root / family / "sliced"
        tiny_model(family, seed=3, **options).save_pretrained(base)
        sliced.mkdir()
        kept = kept_tensors(empty_model(load_config(base)), mask, None)
        slice_weights(base, sliced, kept, {}, on_tensor=lambda: None)
        write_config(base, sliced, intermediate_size=64, dtype="float32")
        save_tokenizer(tiny_tokenizer(), sliced, system_prompt="You are Ada.")


def greedy(directory):
    """The tokens of plain transformers, one prompt after the other."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    answers = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        answers.append(ids[len(prompt) :])
    return answers


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("vllm")
    make_checkpoints(root)
    script = root / "serve.py"  # a file: vLLM starts processes that import it
    script.write_text(SERVE)
    command = [str(PYTHON), str(script), str(root), json.dumps(PROMPTS), str(NEW_TOKENS), *FAMILIES]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_continues_a_sliced_checkpoint_as_transformers_does(served, family):
    found = json.loads((served / f"{family}.json").read_text())
    assert found == greedy(served / family / "sliced")
