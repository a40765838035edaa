"""score: rank the queries by persona sensitivity and keep the top share.

Writes `queries.jsonl` (all queries, best first) and `block_scores.safetensors` with
`block_scores` `[N, B]` in the same order.
"""

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..dataset import Instruction, ScoredQuery, read_jsonl, write_jsonl
from ..models.families import blocks
from ..pipeline.context import StageContext, StageOutcome
from ..scoring.last_token import chunks, last_token_hidden_states
from ..scoring.mean_unit_file import MeanUnitVectors
from ..scoring.sensitivity import block_range, block_scores, rank
from .common import chosen_persona, environment, load_base
from .control import PartSaver

STATE_FILE = "scores.safetensors"


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    spec = context.spec
    queries = read_jsonl(context.input_file("reference", "queries.jsonl"), Instruction)
    persona = chosen_persona(context).text
    model, tokenizer, compute = load_base(context)
    chosen = block_range(len(blocks(model)), spec.scoring.first_block, spec.scoring.last_block)
    mean_unit = MeanUnitVectors(
        context.input_file("reference", "reference.safetensors"),
        (len(queries), len(chosen), model.config.hidden_size),
    )
    texts = [query.query for query in queries]
    state = _resumed(context, (len(queries), len(chosen)))
    scores, done = state["block_scores"], state["done"]
    saver = PartSaver(context, lambda directory: save_file(state, directory / STATE_FILE))
    context.progress.begin("queries", len(queries))
    context.progress.advance(int(done.sum()))
    with saver.working():
        for rows in chunks(texts):
            if bool(done[rows].all()):
                continue
            for batch, hidden_states in last_token_hidden_states(
                model,
                tokenizer,
                persona,
                [texts[row] for row in rows],
                on_rows=context.advance,
            ):
                indices = [rows[index] for index in batch]
                compared = hidden_states[:, chosen.start : chosen.stop]
                scores[indices] = block_scores(mean_unit.rows(indices), compared)
            done[rows] = True
            saver.part_done()
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
        results={
            "queries": len(queries),
            "kept": ranking.kept,
            "scoreHighest": ordered[0],
            "scoreLowestKept": ordered[ranking.kept - 1],
            "scoreLowest": ordered[-1],
        },
        environment=environment(compute),
    )


def _resumed(context: StageContext, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Return the block scores `[N, B]` and which queries have theirs, from an earlier start."""
    directory = context.load_state()
    if directory is not None:
        state = {name: stored.clone() for name, stored in load_file(directory / STATE_FILE).items()}
        if tuple(state["block_scores"].shape) == shape:
            count = int(state["done"].sum())
            context.progress.note(f"resuming with {count} queries of an earlier start")
            return state
    return {"block_scores": torch.zeros(shape), "done": torch.zeros(shape[0], dtype=torch.bool)}
