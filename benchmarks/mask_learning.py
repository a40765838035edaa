"""Time and memory of one step of mask learning, against plain steps on whole prompts.

Three ways, each in a process of its own, on the same batch and with the same gradient:

- plain: the dense and the masked model run on whole prompts and give all logits; the loss takes
  those before answer tokens.
- whole: this project's step without the shared prefix: the dense model's side is kept as hidden
  states, and the head runs on answer tokens only, a chunk at a time.
- shared: this project's step.

Each pass holds `--micro-batch` conversations. Memory is the peak above that of the loaded model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from results import add_output, memory, report, timed
from safetensors.torch import load_file, save_file
from scoring import persona_texts

from persona_jobs.cli.local import default_cache
from persona_jobs.dataset import Example
from persona_jobs.mask_learning.initial_scores import random_scores
from persona_jobs.mask_learning.learn import SCORES, MaskProblem, add_gradient
from persona_jobs.models.compute import resolve
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.loading import load
from persona_jobs.models.masking import masked
from persona_jobs.models.topk import hard_top_k
from persona_jobs.sources import base_model, instructions
from persona_jobs.training.distillation import DistillationDataset
from persona_jobs.training.passes import with_dense_hidden_states
from persona_jobs.training.tokens import tokenize

WAYS = ("plain", "whole", "shared")


def examples(characters: int, count: int) -> list[Example]:
    persona = persona_texts(1, characters)[0]
    loaded = instructions.load("builtin://general", limit=count).instructions
    return [Example.of(system=persona, query=item.query, answer=item.answer) for item in loaded]


def without_prefix(data):
    """The same conversations with nothing shared."""
    shift = len(data.prefix)
    return replace(
        data,
        prefix=[],
        suffixes=[data.prefix + suffix for suffix in data.suffixes],
        positions=[[at + shift for at in row] for row in data.positions],
    )


def plain_gradient(model, data, scores, kept, rows, micro_batch):
    mask = hard_top_k(scores.detach(), kept).requires_grad_(True)
    count = data.answer_tokens(rows)
    by_length = sorted(rows, key=lambda row: len(data.suffixes[row]))
    for start in range(0, len(rows), micro_batch):
        part = by_length[start : start + micro_batch]
        longest = max(len(data.suffixes[row]) for row in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        attention = torch.zeros_like(ids)
        chosen = torch.zeros(len(part), longest, dtype=torch.bool)
        for at, row in enumerate(part):
            ids[at, : len(data.suffixes[row])] = torch.tensor(data.suffixes[row])
            attention[at, : len(data.suffixes[row])] = 1
            chosen[at, data.positions[row]] = True
        with torch.no_grad():
            of_dense = model(ids, attention_mask=attention, use_cache=False).logits[chosen]
        with masked(model, mask):
            logits = model(ids, attention_mask=attention, use_cache=False).logits[chosen]
        log_p, log_q = F.log_softmax(of_dense, dim=-1), F.log_softmax(logits, dim=-1)
        loss = F.kl_div(log_q, log_p, reduction="sum", log_target=True) / count
        loss.backward()
    return mask.grad


def in_this_process(way: str, options: argparse.Namespace, target: Path) -> None:
    directory = base_model.resolve(options.model, cache_dir=default_cache())
    model, tokenizer = load(directory, resolve("CPU", "Float32"))
    data = tokenize(tokenizer, examples(options.characters, options.batch), max_tokens=2048)
    if way != "shared":
        data = without_prefix(data)
    layers = ffn_layers(model)
    kept = layers[0].intermediate_size * 3 // 4
    scores = random_scores((len(layers), layers[0].intermediate_size), seed=0)
    rows = range(len(data))
    if way == "plain":
        before = memory("VmRSS")
        gradient, seconds = timed(
            lambda: plain_gradient(model, data, scores, kept, rows, options.micro_batch)
        )
    else:
        data = with_dense_hidden_states(model, data)  # once for all steps
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        problem = MaskProblem(model, DistillationDataset(data, data), kept, "KL")
        before = memory("VmRSS")
        _, seconds = timed(
            lambda: add_gradient(
                problem, {SCORES: scores}, rows, micro_batch_size=options.micro_batch
            )
        )
        gradient = scores.grad
    save_file({"gradient": gradient}, target)
    tokens = len(data.prefix) + sum(len(suffix) for suffix in data.suffixes)
    result = {"seconds": seconds, "peakMiB": memory("VmHWM") - before, "tokens": tokens}
    print(json.dumps({**result, "answerTokens": data.answer_tokens(rows)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="URI of the base model")
    parser.add_argument("--batch", type=int, default=32, help="conversations per step")
    parser.add_argument("--micro-batch", type=int, default=8, help="conversations per pass")
    parser.add_argument("--characters", type=int, default=900, help="length of the persona's text")
    parser.add_argument("--process", nargs=2, metavar=("WAY", "TARGET"), help="internal")
    add_output(parser)
    options = parser.parse_args()
    if options.process:
        in_this_process(options.process[0], options, Path(options.process[1]))
        return
    measured, gradients = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            target = Path(folder, f"{way}.safetensors")
            command = [sys.executable, *sys.argv, "--process", way, str(target)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            measured[way] = json.loads(done.stdout.splitlines()[-1])
            gradients[way] = load_file(target)["gradient"]
    largest = gradients["plain"].abs().max()
    difference = float((gradients["shared"] - gradients["plain"]).abs().max() / largest)
    seconds = {way: result["seconds"] for way, result in measured.items()}
    peak = {way: result["peakMiB"] for way, result in measured.items()}
    faster = seconds["plain"] / seconds["shared"]
    share = 100 * peak["shared"] / peak["plain"]
    report(
        "mask_learning",
        options,
        {
            "tokensWhole": measured["whole"]["tokens"],
            "tokensShared": measured["shared"]["tokens"],
            "answerTokens": measured["shared"]["answerTokens"],
            **{f"seconds.{way}": round(seconds[way], 2) for way in WAYS},
            **{f"peakMiB.{way}": round(peak[way]) for way in WAYS},
            "ratio": round(faster, 2),
            "ratioToWhole": round(seconds["whole"] / seconds["shared"], 2),
            "memoryPercent": round(share),
            "memoryPercentOfWhole": round(100 * peak["shared"] / peak["whole"]),
            "gradientDifference": difference,
        },
        bounds={"ratio": ">= 2.5", "memoryPercent": "<= 60", "gradientDifference": "<= 1e-3"},
        met={
            "ratio": faster >= 2.5,
            "memoryPercent": share <= 60,
            "gradientDifference": difference <= 1e-3,
        },
    )


if __name__ == "__main__":
    main()
