"""Time that the shared prefix saves in scoring many queries under one persona.

Baseline: each query's whole prompt, `output_hidden_states=True`, batched by length, as a plain
implementation would do it. Both compute the same numbers; the largest difference is printed.
"""

import argparse
import statistics
import time

import torch

from persona_jobs.cli.local import default_cache
from persona_jobs.models.batching import MAX_BATCH_TOKENS, length_sorted_batches
from persona_jobs.models.chat import messages, render
from persona_jobs.models.compute import resolve
from persona_jobs.models.loading import load
from persona_jobs.scoring.last_token import last_token_hidden_states
from persona_jobs.sources import base_model, instructions, personas


def plain(model, tokenizer, persona, queries):
    prompts = [render(tokenizer, messages(persona, query)) for query in queries]
    states = torch.empty(len(queries), model.config.num_hidden_layers, model.config.hidden_size)
    with torch.inference_mode():
        for rows in length_sorted_batches([len(p) for p in prompts], max_tokens=MAX_BATCH_TOKENS):
            longest = max(len(prompts[row]) for row in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for at, row in enumerate(rows):
                ids[at, : len(prompts[row])] = torch.tensor(prompts[row])
                mask[at, : len(prompts[row])] = 1
            output = model(ids, attention_mask=mask, output_hidden_states=True)
            last = mask.sum(dim=1) - 1
            for at, row in enumerate(rows):
                states[row] = torch.stack([h[at, last[at]] for h in output.hidden_states[1:]])
    return states


def shared(model, tokenizer, persona, queries):
    states = torch.empty(len(queries), model.config.num_hidden_layers, model.config.hidden_size)
    for rows, batch in last_token_hidden_states(model, tokenizer, persona, queries):
        states[rows] = batch
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="URI of the base model")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = base_model.resolve(options.model, cache_dir=default_cache())
    model, tokenizer = load(directory, resolve("CPU", "Float32"))
    persona = personas.load("builtin://general", count=1)[0].text
    loaded = instructions.load("builtin://general", limit=options.queries)
    queries = [item.query for item in loaded.instructions]
    times: dict[str, list[float]] = {"plain": [], "shared": []}
    results = {}
    for _ in range(options.rounds):
        for name, function in (("plain", plain), ("shared", shared)):
            start = time.perf_counter()
            results[name] = function(model, tokenizer, persona, queries)
            times[name].append(time.perf_counter() - start)
    difference = (results["plain"] - results["shared"]).abs().max()
    scale = results["plain"].abs().max()
    ratios = [a / b for a, b in zip(times["plain"], times["shared"], strict=True)]
    print(f"plain  {statistics.median(times['plain']):.2f} s (median of {options.rounds})")
    print(f"shared {statistics.median(times['shared']):.2f} s")
    print(f"plain / shared = {statistics.median(ratios):.2f}")
    print(f"largest difference {difference:.2e} at values up to {scale:.0f}")


if __name__ == "__main__":
    main()
