"""What the status says of the sources."""

from persona_jobs.api.status import SourceStatus, StageStatus
from persona_jobs.pipeline.pins import pin_sources, sources

from .context import Context
from .progress import Progress


def source_status(
    context: Context, progress: list[Progress]
) -> tuple[StageStatus | None, list[SourceStatus]]:
    """Return the state of the lookup, and what each source was resolved to.

    Args:
        context: the reconciliation.
        progress: the lookup alone while nothing is planned, else the stages.
    """
    before = context.persona.status
    document = context.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    if context.pending_lookup is None:
        known = before.resolution
        current = known and context.lookup and known.key == context.lookup.key
        planned = {(stage.name, stage.key) for stage in context.stages}
        same_plan = planned == {(stage.name, stage.key) for stage in before.stages}
        # What a finished plan was made from stays, whatever this release would use.
        kept = before.sources if same_plan and before.sources else _entries(document)
        return known if current else None, kept
    lookup = progress[0]
    if lookup.found is None:
        return lookup.status, before.sources
    pin_sources(document, lookup.found)
    return lookup.status, _entries(document)


def _entries(document: dict[str, object]) -> list[SourceStatus]:
    return [
        SourceStatus(name=item.name, uri=item.uri, revision=item.fields.get("revision"))
        for item in sources(document)
    ]
