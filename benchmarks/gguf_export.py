"""Sliced GGUF files beside dense ones: bytes, divergence from the dense model, speed in llama.cpp.

Reads a checkpoint that `persona run` made, its base model, and the held-out answers of the rewrite
stage. Divergence and perplexity are those of each file's own weights, in float32. Speeds are tokens
per second of processor time with one thread; the files take turns. With --work a
second start reuses the files.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from results import add_output, report

from persona_jobs.dataset import Example, read_jsonl
from persona_jobs.evaluation.losses import AnswerStates, answer_states, held_out_loss
from persona_jobs.export.gguf_file import write_gguf
from persona_jobs.export.gguf_tensors import QUANTIZATIONS, gguf_tensors
from persona_jobs.export.perplexity import load_weights
from persona_jobs.models.compute import resolve
from persona_jobs.models.loading import load
from persona_jobs.training.tokens import TokenizedSet, tokenize

PROMPT_TOKENS, ANSWER_TOKENS = 64, 16
SPEEDS = """
import json, sys, time, urllib.request
import xllamacpp

given = json.load(sys.stdin)
servers = {}
for name, path in given["files"].items():
    options = xllamacpp.CommonParams()
    options.model.path = path
    options.n_ctx, options.n_parallel, options.warmup = 512, 1, False
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    servers[name] = xllamacpp.Server(options)

def seconds(server, prompt, count):
    body = {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True}
    body["cache_prompt"] = False
    request = urllib.request.Request(
        server.listening_address + "/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    start = time.process_time()
    json.load(urllib.request.urlopen(request))
    return time.process_time() - start

long, count = given["prompt"], given["count"]
found = {name: {"prefill": [], "decode": []} for name in servers}
for round in range(given["rounds"] + 1):
    for name, server in servers.items():
        read = seconds(server, long, 1)
        written = seconds(server, long[:8], count + 1) - seconds(server, long[:8], 1)
        if round:  # the first one also reads the file
            found[name]["prefill"].append(len(long) / read)
            found[name]["decode"].append(count / written)
print("SPEEDS" + json.dumps(found))
"""


@dataclass
class Measured:
    """One file: its bytes, perplexity, and KL from the dense model in nats per token."""

    size: int
    perplexity: float
    kl: float


def measure(
    directory: Path, folder: Path, data: TokenizedSet, dense: AnswerStates | None
) -> tuple[dict[str, Measured], AnswerStates]:
    """Write a checkpoint in all number formats and measure each; returns the dense states too."""
    model, _ = load(directory, resolve("CPU", "Float32"))
    own = answer_states(model, data)
    dense = dense or own
    loss = held_out_loss(dense, own, data)
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    found = {"checkpoint": Measured(size, math.exp(loss.cross_entropy), loss.kl)}
    # What `own` holds of the model is its head, whose weights are replaced below.
    if dense is own:
        base, _ = load(directory, resolve("CPU", "Float32"))
        dense = answer_states(base, data)
    for name in QUANTIZATIONS:
        path = folder / f"{name}.gguf"
        if not path.exists():
            write_gguf(directory, path, name, texts={})
        load_weights(model, path, gguf_tensors(directory, model.config, name))
        loss = held_out_loss(dense, answer_states(model, data), data)
        found[name] = Measured(path.stat().st_size, math.exp(loss.cross_entropy), loss.kl)
    return found, dense


def speeds(files: dict[str, Path], prompt: list[int], rounds: int) -> dict[str, dict[str, list]]:
    given = {
        "files": {name: str(path) for name, path in files.items()},
        "prompt": prompt,
        "count": ANSWER_TOKENS,
        "rounds": rounds,
    }
    result = subprocess.run(
        [sys.executable, "-c", SPEEDS],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in result.stdout.splitlines() if line.startswith("SPEEDS"))
    return json.loads(line.removeprefix("SPEEDS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--sliced", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--answers", type=Path, required=True, help="test.jsonl of rewrite")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder in which the files are kept and reused")
    add_output(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, tokenizer = load(options.dense, resolve("CPU", "Float32"))
    data = tokenize(tokenizer, read_jsonl(options.answers, Example), max_tokens=2048)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        folders = {kind: work / kind for kind in ("dense", "sliced")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        dense, states = measure(options.dense, folders["dense"], data, None)
        sliced, _ = measure(options.sliced, folders["sliced"], data, states)
        files = {
            f"{kind} {name}": folder / f"{name}.gguf"
            for name in QUANTIZATIONS
            for kind, folder in folders.items()
        }
        prompt = (data.prefix + [token for row in data.suffixes for token in row])[:PROMPT_TOKENS]
        taken = speeds(files, prompt, options.rounds)
    print(f"{data.answer_tokens(range(len(data)))} answer tokens of {len(data)} answers\n")
    print("| file | MB | perplexity | KL, nats per token | prefill, tokens/s | decode, tokens/s |")
    print("|---|---|---|---|---|---|")
    results = {}
    for kind, found in (("dense", dense), ("sliced", sliced)):
        for name, item in found.items():
            title = f"{kind} {name}"
            cells = ["–", "–"]
            if title in taken:
                cells = [
                    f"{statistics.median(taken[title][part]):.0f} "
                    f"({min(taken[title][part]):.0f} – {max(taken[title][part]):.0f})"
                    for part in ("prefill", "decode")
                ]
            print(
                f"| {title} | {item.size / 1e6:.1f} | {item.perplexity:.3f} | {item.kl:.4f} | "
                + " | ".join(cells)
                + " |"
            )
            results[title] = {"bytes": item.size, "perplexity": item.perplexity, "kl": item.kl}
            results[title] |= taken.get(title, {})
    print()
    report("gguf_export", options, results, bounds={}, met={})


if __name__ == "__main__":
    main()
