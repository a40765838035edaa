"""The real llama.cpp, in a process of its own: its tokens, prompts and probabilities."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, sys, urllib.request
import xllamacpp

given = json.load(sys.stdin)
options = xllamacpp.CommonParams()
options.model.path = given["model"]
options.n_ctx, options.n_parallel, options.warmup = 512, 1, False
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(options)
answers = []
for path, body in given["requests"]:
    request = urllib.request.Request(
        server.listening_address + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    answers.append(json.load(urllib.request.urlopen(request)))
print("ANSWERS" + json.dumps(answers))
"""


def ask(model: Path, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Load a GGUF file and send requests (path and body) to llama.cpp's server."""
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps({"model": str(model), "requests": requests}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("ANSWERS")]
    assert lines, result.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("ANSWERS"))


@dataclass
class Greedy:
    """A greedy answer: its tokens, and the log-probabilities of the first ones.

    The server leaves out the probabilities of tokens that end within a character.
    """

    tokens: list[int]
    logprobs: list[float]


def greedy(prompt: list[int], count: int) -> tuple[str, dict[str, Any]]:
    """The request for the most likely tokens after a prompt."""
    body = {
        "prompt": prompt,
        "n_predict": count,
        "temperature": 0,
        "n_probs": 1,
        "return_tokens": True,
        "cache_prompt": False,
        "ignore_eos": True,
    }
    return "/completion", body


def greedy_answer(answer: dict[str, Any]) -> Greedy:
    logprobs = []
    for token, item in zip(answer["tokens"], answer["completion_probabilities"], strict=False):
        if token != item["id"]:
            break
        logprobs.append(item["logprob"])
    return Greedy(answer["tokens"], logprobs)
