"""reference: hidden states of all queries under the reference personas; independent of the target.

Writes `queries.jsonl`, `personas.jsonl` and `reference.safetensors` with `mean_unit`
`[N, B, d]` float32 (see `scoring.sensitivity`).
"""

import torch
from safetensors.torch import save_file

from ..dataset import ReferencePersona, write_jsonl
from ..errors import InputError
from ..models.families import blocks
from ..pipeline.context import StageContext, StageOutcome
from ..scoring.last_token import last_token_hidden_states
from ..scoring.sensitivity import accumulate, block_range
from ..sources import instructions, personas
from .common import environment, hub_revision, load_base

MINIMUM_QUERIES = 20


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    source = context.spec.instructions
    columns = source.columns
    loaded = instructions.load(
        source.uri,
        hub_revision(source.uri, source.revision),
        split=source.split,
        columns=instructions.Columns(columns.instruction, columns.input, columns.output),
        limit=source.max_samples,
        minimum=MINIMUM_QUERIES,
        cache_dir=context.cache,
        token=context.hf_token,
    )
    queries = loaded.instructions
    references = _references(context)
    model, tokenizer, compute = load_base(context)
    chosen = _block_range(context, len(blocks(model)))
    total = torch.zeros(len(queries), len(chosen), model.config.hidden_size)
    context.progress.begin("reference personas x queries", len(references) * len(queries))
    texts = [query.query for query in queries]
    for persona in references:
        batches = last_token_hidden_states(
            model, tokenizer, persona.text, texts, on_rows=context.advance
        )
        accumulate(batches, total, chosen)
    save_file(
        {"mean_unit": (total / len(references)).contiguous()},
        context.output / "reference.safetensors",
    )
    write_jsonl(context.output / "queries.jsonl", queries)
    write_jsonl(context.output / "personas.jsonl", references)
    report = loaded.report
    if report.too_long:
        context.progress.note(
            f"{report.too_long} instructions longer than {instructions.MAX_CHARACTERS:,} "
            "characters are left out"
        )
    return StageOutcome(
        metrics={
            "queries": len(queries),
            "references": len(references),
            "blocks": len(chosen),
            "droppedWithoutAnswer": report.without_answer,
            "droppedTooLong": report.too_long,
            "droppedDuplicates": report.duplicates,
        },
        environment=environment(compute),
    )


def _references(context: StageContext) -> list[ReferencePersona]:
    source = context.spec.reference_personas
    return personas.load(source.uri, count=source.count, cache_dir=context.cache)


def _block_range(context: StageContext, count: int) -> range:
    scoring = context.spec.scoring
    try:
        return block_range(count, scoring.first_block, scoring.last_block)
    except ValueError as error:
        raise InputError(
            f"the spec asks to compare {error}",
            hint="Leave firstBlock and lastBlock out to compare all blocks",
            subject="spec.scoring",
        ) from None
