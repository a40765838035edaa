"""Time of scoring queries by persona sensitivity, against the plain method.

Plain: for every persona, the target and all references, each query's whole prompt runs through the
model with `output_hidden_states=True`, for each target persona again. It runs on a sample of the
queries; its time grows in proportion. Both give the same scores; the largest difference is shown.
"""

import argparse

import torch
import torch.nn.functional as F
from results import add_output, report, timed

from persona_jobs.cli.local import default_cache
from persona_jobs.models.batching import MAX_BATCH_TOKENS, length_sorted_batches
from persona_jobs.models.chat import messages, render
from persona_jobs.models.compute import resolve
from persona_jobs.models.families import blocks
from persona_jobs.models.loading import load
from persona_jobs.scoring.last_token import last_token_hidden_states
from persona_jobs.scoring.sensitivity import accumulate, block_scores
from persona_jobs.sources import base_model, instructions, personas


def plain_hidden_states(model, tokenizer, persona, queries):
    prompts = [render(tokenizer, messages(persona, query)) for query in queries]
    states = torch.empty(len(queries), len(blocks(model)), model.config.hidden_size)
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


def plain(model, tokenizer, target, references, queries):
    of_target = plain_hidden_states(model, tokenizer, target, queries)
    scores = torch.zeros(of_target.shape[:2])
    for persona in references:
        of_reference = plain_hidden_states(model, tokenizer, persona, queries)
        scores += 1 - F.cosine_similarity(of_reference, of_target, dim=-1)
    return (scores / len(references)).mean(dim=1)


def mean_unit(model, tokenizer, references, queries):
    count = len(blocks(model))
    total = torch.zeros(len(queries), count, model.config.hidden_size)
    for persona in references:
        batches = last_token_hidden_states(model, tokenizer, persona, queries)
        accumulate(batches, total, range(count))
    return total / len(references)


def scores_of(model, tokenizer, target, means, queries):
    scores = torch.zeros(means.shape[:2])
    for rows, hidden_states in last_token_hidden_states(model, tokenizer, target, queries):
        scores[rows] = block_scores(means[rows], hidden_states)
    return scores.mean(dim=1)


def persona_texts(count, characters):
    texts = [persona.text for persona in personas.load("builtin://general", count=10)]
    # Each begins with its own text, and goes on with the others' up to the length.
    joined = [" ".join(texts[at:] + texts[:at] + texts) for at in range(count)]
    return [text[:characters] for text in joined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="URI of the base model")
    parser.add_argument("--queries", type=int, default=120)
    parser.add_argument("--sample", type=int, default=18, help="queries of the plain method")
    parser.add_argument("--characters", type=int, default=900, help="length of a persona's text")
    add_output(parser)
    options = parser.parse_args()
    directory = base_model.resolve(options.model, cache_dir=default_cache())
    model, tokenizer = load(directory, resolve("CPU", "Float32"))
    target, *references = persona_texts(10, options.characters)
    loaded = instructions.load("builtin://general", limit=options.queries)
    queries = sorted((item.query for item in loaded.instructions), key=len)
    chosen = [round(at * len(queries) / options.sample) for at in range(options.sample)]
    sample = [queries[index] for index in chosen]

    scores_of(model, tokenizer, target, mean_unit(model, tokenizer, references[:1], sample), sample)
    means, reference_seconds = timed(lambda: mean_unit(model, tokenizer, references, queries))
    scores, target_seconds = timed(lambda: scores_of(model, tokenizer, target, means, queries))
    expected, seconds = timed(lambda: plain(model, tokenizer, target, references, sample))
    plain_seconds = seconds * len(queries) / len(sample)
    first = plain_seconds / (reference_seconds + target_seconds)
    further = plain_seconds / target_seconds
    difference = float((scores[chosen] - expected).abs().max())
    tokens = [len(render(tokenizer, messages(target, query))) for query in queries]
    report(
        "scoring",
        options,
        {
            "queries": len(queries),
            "tokensPerPrompt": round(sum(tokens) / len(tokens), 1),
            "secondsPlain": round(plain_seconds, 1),
            "secondsFirst": round(reference_seconds + target_seconds, 1),
            "secondsFurther": round(target_seconds, 2),
            "ratioFirst": round(first, 1),
            "ratioFurther": round(further, 1),
            "largestDifference": difference,
        },
        bounds={"ratioFirst": ">= 8", "ratioFurther": ">= 100", "largestDifference": "<= 1e-4"},
        met={
            "ratioFirst": first >= 8,
            "ratioFurther": further >= 100,
            "largestDifference": difference <= 1e-4,
        },
    )


if __name__ == "__main__":
    main()
