"""score: rank the queries by persona sensitivity and keep the top share.

Writes `queries.jsonl` (all queries, best first) and `block_scores.safetensors` with
`block_scores` `[N, B]` in the same order.
"""

import torch
from safetensors.torch import load_file, save_file

from ..dataset import Instruction, ScoredQuery, read_jsonl, write_jsonl
from ..errors import CorruptArtifactError
from ..models.families import blocks
from ..pipeline.context import StageContext, StageOutcome
from ..scoring.last_token import last_token_hidden_states
from ..scoring.sensitivity import block_range, block_scores, rank
from .common import environment, load_base


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    spec = context.spec
    queries = read_jsonl(context.input_file("reference", "queries.jsonl"), Instruction)
    mean_unit = load_file(context.input_file("reference", "reference.safetensors"))["mean_unit"]
    model, tokenizer, compute = load_base(context)
    chosen = block_range(len(blocks(model)), spec.scoring.first_block, spec.scoring.last_block)
    if mean_unit.shape != (len(queries), len(chosen), model.config.hidden_size):
        raise CorruptArtifactError(
            f"the reference hidden states of shape {list(mean_unit.shape)} don't fit the model",
            hint="Delete the reference stage's folder in the store and run again",
        )
    context.progress.begin("queries", len(queries))

    scores = torch.zeros(mean_unit.shape[:2])
    texts = [query.query for query in queries]
    for rows, hidden_states in last_token_hidden_states(
        model, tokenizer, context.persona_text, texts, on_rows=context.advance
    ):
        scores[rows] = block_scores(mean_unit[rows], hidden_states[:, chosen.start : chosen.stop])
    ranking = rank(scores, spec.scoring.keep_percent)
    write_jsonl(
        context.output / "queries.jsonl",
        (
            ScoredQuery(
                query=queries[index].query,
                answer=queries[index].answer,
                score=ranking.scores[index],
                rank=position,
                kept=position <= ranking.kept,
            )
            for position, index in enumerate(ranking.order, start=1)
        ),
    )
    save_file(
        {"block_scores": scores[ranking.order].contiguous()},
        context.output / "block_scores.safetensors",
    )
    ordered = [ranking.scores[index] for index in ranking.order]
    return StageOutcome(
        metrics={
            "queries": len(queries),
            "kept": ranking.kept,
            "scoreHighest": ordered[0],
            "scoreLowestKept": ordered[ranking.kept - 1],
            "scoreLowest": ordered[-1],
        },
        environment=environment(compute),
    )
