"""Finished models: which there are, whether they meet the gate, and which one to serve."""

from dataclasses import dataclass
from typing import Any

from persona_jobs.api.status import RevisionStatus
from persona_jobs.pipeline.results import EvaluationMetrics

from . import gate
from .context import Context
from .stage_results import EXPORT, revision_from_evaluation, with_export
from .times import format_time

MAX_REVISIONS = 10


@dataclass(frozen=True)
class Revisions:
    """The finished models and the choice among them.

    Attributes:
        known: newest first.
        current: the one that the current spec leads to, once it is evaluated.
        target: the one to serve, None where none may take traffic.
        usable: ids of those in the current store.
        pin_missing: whether `spec.serving.revision` names one that isn't there.
    """

    known: tuple[RevisionStatus, ...]
    current: RevisionStatus | None
    target: RevisionStatus | None
    usable: tuple[str, ...] = ()
    pin_missing: bool = False


def current_id(context: Context) -> str | None:
    """Return the id of the revision that the current spec leads to, None while it isn't known."""
    return next((stage.short_key for stage in context.stages if stage.name == "slice"), None)


def update_revisions(
    context: Context,
    evaluation: EvaluationMetrics | None,
    elsewhere: RevisionStatus | None,
    *,
    finished: bool,
    exported: bool,
) -> Revisions:
    """Add a newly evaluated model, check the current one, choose the one to serve.

    Args:
        context: the reconciliation.
        evaluation: metrics that the evaluate stage has just reported.
        elsewhere: the same model as another PersonaModel's status describes it.
        finished: whether all stages that traffic waits for have succeeded for the current spec.
        exported: whether the exports of the current spec are in the store.
    """
    keys = {stage.name: stage.key for stage in context.stages}
    known = list(context.persona.status.revisions)
    if evaluation is not None:
        new = revision_from_evaluation(
            evaluation,
            spec=context.spec,
            slice_key=keys["slice"],
            evaluate_key=keys["evaluate"],
            finished_at=format_time(context.now),
            store=context.store.identity,
        )
        known = [new, *(item for item in known if item.id != new.id)]
    elif elsewhere is not None:
        # Exports are of the other one's spec.
        own = [item for item in elsewhere.artifacts if item.name in {"checkpoint", "evaluation"}]
        new = elsewhere.model_copy(update={"artifacts": own})
        known = [new, *(item for item in known if item.id != new.id)]
    current = None
    for position, item in enumerate(known):
        if finished and item.evaluate_key == keys["evaluate"] and item.slice_key == keys["slice"]:
            checked = gate.check(context.spec.evaluation.gate, item)
            update: dict[str, Any] = {"gate": checked.result, "message": checked.message}
            if exported:
                update["artifacts"] = with_export(item.artifacts, keys[EXPORT])
            current = known[position] = item.model_copy(update=update)
    usable = [item for item in known if item.store in {None, context.store.identity}]
    target, pin_missing = _target(context, usable, current)
    return Revisions(
        known=tuple(_newest(context, known, current, target)),
        current=current,
        target=target,
        usable=tuple(item.id for item in usable),
        pin_missing=pin_missing,
    )


def _target(
    context: Context, usable: list[RevisionStatus], current: RevisionStatus | None
) -> tuple[RevisionStatus | None, bool]:
    pin = context.spec.serving.revision
    if pin is not None:
        pinned = next((item for item in usable if item.id == pin), None)
        if pinned is not None:
            return pinned, False
        leads_to = current_id(context)
        waited_for = leads_to in {None, pin} and current is None
        return _last_good(context, usable), not waited_for
    if current is not None and current.gate != "Failed" and current in usable:
        return current, False
    return _last_good(context, usable), False


def _last_good(context: Context, usable: list[RevisionStatus]) -> RevisionStatus | None:
    """Return the revision that serves now if it passed its gate, else the newest that did."""
    good = [item for item in usable if item.gate != "Failed"]
    serving = _serving_id(context)
    return next((item for item in good if item.id == serving), good[0] if good else None)


def _serving_id(context: Context) -> str | None:
    serving = context.persona.status.serving
    return serving.revision if serving else None


def _newest(
    context: Context,
    known: list[RevisionStatus],
    current: RevisionStatus | None,
    target: RevisionStatus | None,
) -> list[RevisionStatus]:
    """Return the newest ones and those in use."""
    in_use = {_serving_id(context), current.id if current else None, target.id if target else None}
    room = MAX_REVISIONS - sum(item.id in in_use for item in known)
    kept = []
    for item in known:
        if item.id in in_use:
            kept.append(item)
        elif room > 0:
            kept.append(item)
            room -= 1
    return kept
