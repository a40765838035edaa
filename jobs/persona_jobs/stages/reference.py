"""reference: hidden states of all queries under the reference personas; independent of the target.

Writes `queries.jsonl`, `personas.jsonl` and `reference.safetensors` with one mean unit vector per
query and block (see `scoring.sensitivity` and `scoring.mean_unit_file`).
"""

import os

import torch

from ..dataset import ReferencePersona, write_jsonl
from ..errors import InputError
from ..models.families import blocks
from ..pipeline.context import StageContext, StageOutcome
from ..scoring.last_token import chunks, last_token_hidden_states
from ..scoring.mean_unit_file import MeanUnitFile
from ..scoring.sensitivity import accumulate, block_range
from ..sources import instructions, personas
from ..sources.access import source_access
from .common import environment, hub_revision, load_base, unchanged
from .control import PartSaver

MINIMUM_QUERIES = 20


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    loaded = _instructions(context)
    queries = loaded.instructions
    references = _references(context)
    model, tokenizer, compute = load_base(context)
    chosen = _block_range(context, len(blocks(model)))
    texts = [query.query for query in queries]
    vectors = MeanUnitFile(
        context.output / "reference.safetensors",
        (len(queries), len(chosen), model.config.hidden_size),
    )
    _resume(context, vectors)
    saver = PartSaver(context, vectors.write_unsaved, keep_all=True)
    context.progress.begin("reference personas x queries", len(references) * len(queries))
    context.progress.advance(len(references) * len(vectors.done))
    with saver.working():
        for rows in chunks(texts):
            if vectors.done.issuperset(rows):
                continue
            total = torch.zeros(len(rows), len(chosen), model.config.hidden_size)
            for persona in references:
                batches = last_token_hidden_states(
                    model,
                    tokenizer,
                    persona.text,
                    [texts[row] for row in rows],
                    on_rows=context.advance,
                )
                accumulate(batches, total, chosen)
            vectors.put(rows, total / len(references))
            saver.part_done()
    vectors.flush()
    write_jsonl(context.output / "queries.jsonl", queries)
    write_jsonl(context.output / "personas.jsonl", references)
    report = loaded.report
    if report.too_long:
        context.progress.note(
            f"{report.too_long} instructions longer than {instructions.MAX_CHARACTERS:,} "
            "characters are left out"
        )
    return StageOutcome(
        results={
            "queries": len(queries),
            "references": len(references),
            "blocks": len(chosen),
            "droppedWithoutAnswer": report.without_answer,
            "droppedTooLong": report.too_long,
            "droppedDuplicates": report.duplicates,
        },
        environment=environment(compute),
    )


def _resume(context: StageContext, vectors: MeanUnitFile) -> None:
    for directory in context.load_states():
        try:
            vectors.read_part(directory)
        except (ValueError, OSError) as error:
            context.progress.note(f"a saved part can't be used: {error}")
    if vectors.done:
        context.progress.note(f"resuming with {len(vectors.done)} queries of an earlier start")


def _instructions(context: StageContext) -> instructions.InstructionSet:
    source = context.spec.instructions
    columns = source.columns
    with unchanged(context, "instructions"):
        return instructions.load(
            source.uri,
            hub_revision(source.uri, source.revision),
            split=source.split,
            columns=instructions.Columns(columns.instruction, columns.input, columns.output),
            limit=source.max_samples,
            minimum=MINIMUM_QUERIES,
            cache_dir=context.cache,
            access=source_access("instructions", source.endpoint, os.environ),
        )


def _references(context: StageContext) -> list[ReferencePersona]:
    source = context.spec.reference_personas
    access = source_access("referencePersonas", source.endpoint, os.environ)
    with unchanged(context, "referencePersonas"):
        return personas.load(source.uri, count=source.count, cache_dir=context.cache, access=access)


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
