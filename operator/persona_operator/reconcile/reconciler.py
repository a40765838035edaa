"""From a PersonaModel and the observed state to actions and a status, without any I/O."""

from datetime import datetime

from persona_jobs.api.status import PersonaModelStatus, StageStatus

from ..settings import Settings
from .conditions import conditions
from .context import Context, make_context
from .events import transition_events
from .observed import Observed
from .persona import Persona
from .plan import Apply, Delete, Plan, PlanBuilder
from .progress import awaited, finished_keys
from .readiness import Readiness, Situation, failed, readiness
from .resolution import TerminalError
from .revisions import current_id, update_revisions
from .serving import Serving, reconcile_serving
from .source_status import source_status
from .stage_results import EXPORT
from .stages import reconcile_stages
from .summary import summarize_revision


def reconcile(persona: Persona, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide what to do for one PersonaModel, and what its status shows.

    The same inputs give the same plan, and a plan may be applied in part and decided again: the
    decisions depend on the observed state, never on the event that led here.

    Args:
        persona: the PersonaModel, with the status written last.
        observed: its objects, other PersonaModels' Jobs for the same keys, results in the store.
        settings: the administrator's settings.
        now: the time.
    """
    if persona.deleting:
        return Plan(actions=(), status=persona.status)
    try:
        context = make_context(persona, observed, settings, now)
    except TerminalError as error:
        return _not_reconcilable(persona, observed, failed(error.reason, error.message), now)
    builder = PlanBuilder()
    _config_maps(context, builder)
    progress = reconcile_stages(context, builder)
    evaluation = next((item.evaluation for item in progress if item.evaluation), None)
    elsewhere = next((item.revision for item in progress if item.revision), None)
    planned = context.pending_lookup is None
    # A retry is handled once the store has been asked for every result of the plan.
    verified = planned and not any(item.state == "Pending" for item in observed.stored.values())
    finished = planned and all(item.succeeded for item in progress if awaited(item))
    exported = any(item.succeeded for item in progress if item.status.name == EXPORT)
    revisions = update_revisions(
        context, evaluation, elsewhere, finished=finished, exported=exported
    )
    serving = reconcile_serving(context, revisions.target, builder)
    ready = readiness(Situation(context, progress, revisions, serving))
    served = serving.status.revision if serving.status else None
    shown = next((item for item in revisions.known if item.id == served), None)
    summary = summarize_revision(shown or (revisions.known[0] if revisions.known else None))
    resolution, sources = source_status(context, progress)
    before = persona.status
    status = PersonaModelStatus(
        observed_generation=persona.generation,
        conditions=conditions(persona, ready, served, observed.deployment, now),
        phase=ready.reason,
        # Until the stages are planned, the status says for which spec they were planned last.
        written_hash=context.written_hash if planned else before.written_hash,
        base_model=context.spec.base_model.uri,
        sparsity_percent=context.spec.pruning.sparsity_percent,
        resolution=resolution,
        sources=sources,
        stages=[item.status for item in progress] if planned else _former_stages(context),
        revision=current_id(context),
        revisions=list(revisions.known),
        serving=serving.status,
        size=summary.size,
        score=summary.score,
        judges=summary.judges,
        latency=summary.latency,
        url=_url(serving),
        last_handled_retry=persona.retry if verified else before.last_handled_retry,
        store=context.store.identity,
        finished_keys=finished_keys(context, progress),
        **(before.model_extra or {}),
    )
    return Plan(
        actions=tuple(builder.actions),
        status=status,
        events=transition_events(before, status),
        wake_after=builder.wake_after,
        rollout=builder.rollout,
    )


def _former_stages(context: Context) -> list[StageStatus]:
    return context.persona.status.stages if context.status_is_of_store else []


def _url(serving: Serving) -> str | None:
    """Return the URL once a revision has taken traffic."""
    return serving.status.url if serving.status and serving.status.revision else None


def _not_reconcilable(
    persona: Persona, observed: Observed, ready: Readiness, now: datetime
) -> Plan:
    """Change only the conditions: what is served and what is finished stays as it is."""
    served = persona.status.serving.revision if persona.status.serving else None
    status = persona.status.model_copy(
        update={
            "observed_generation": persona.generation,
            "phase": ready.reason,
            "conditions": conditions(persona, ready, served, observed.deployment, now),
        }
    )
    return Plan(actions=(), status=status, events=transition_events(persona.status, status))


def _config_maps(context: Context, builder: PlanBuilder) -> None:
    """Keep the current ConfigMap; delete former ones once no Job can need them."""
    name = context.config_map["metadata"]["name"]
    present = {item for kind, item in context.observed.owned if kind == "ConfigMap"}
    if name not in present:
        builder.act(Apply(context.config_map))
    if not any(context.is_own(job) and not job.ended for job in context.observed.jobs):
        for stale in sorted(present - {name}):
            builder.act(Delete("ConfigMap", stale))
