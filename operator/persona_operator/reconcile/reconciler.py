"""From a PersonaModel and what is observed to actions and a status. No input or output."""

from datetime import datetime

from persona_jobs.api.status import PersonaModelStatus

from ..settings import Settings
from .conditions import Verdict, conditions, context_conditions, failed, judge
from .context import Context, TerminalError, make_context
from .events import transition_events
from .observed import Observed
from .persona import Persona
from .plan import Apply, Delete, Plan, PlanBuilder
from .progress import finished_keys
from .revisions import current_id, update_revisions
from .serving import Serving, serve
from .stages import advance
from .summary import summarize_revision
from .times import format_time


def reconcile(persona: Persona, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide what to do for one PersonaModel, and what its status says.

    The same inputs give the same plan, and a plan may be applied in part and worked out again: the
    decisions depend on what is there, never on which event led here.

    Args:
        persona: the PersonaModel, with the status written last.
        observed: its children, other PersonaModels' Jobs on the same keys, the store's word.
        settings: the administrator's settings.
        now: the time.
    """
    if persona.deleting:
        return Plan(actions=(), status=persona.status)
    try:
        context = make_context(persona, observed, settings, now)
    except TerminalError as error:
        return _not_reconcilable(persona, failed(error.reason, error.message), now)
    builder = PlanBuilder()
    _config_maps(context, builder)
    progress = advance(context, builder)
    evaluation = next((item.evaluation for item in progress if item.evaluation), None)
    finished = all(item.succeeded for item in progress)
    revisions = update_revisions(context, evaluation, finished=finished)
    serving = serve(context, revisions.target, builder)
    verdict = judge(context, progress, revisions, serving)
    served = serving.status.revision if serving.status else None
    shown = next((item for item in revisions.known if item.id == served), None)
    summary = summarize_revision(shown or (revisions.known[0] if revisions.known else None))
    status = PersonaModelStatus(
        observed_generation=persona.generation,
        conditions=context_conditions(context, verdict),
        stages=[item.status for item in progress],
        revision=current_id(context),
        revisions=list(revisions.known),
        serving=serving.status,
        size=summary.size,
        score=summary.score,
        latency=summary.latency,
        url=_url(serving),
        last_handled_retry=persona.retry,
        store=context.store.identity,
        finished_keys=finished_keys(context, progress),
    )
    return Plan(
        actions=tuple(builder.actions),
        status=status,
        events=transition_events(persona.status, status),
        wake_after=builder.wake_after,
    )


def _url(serving: Serving) -> str | None:
    """The URL is shown once a revision has taken traffic."""
    return serving.status.url if serving.status and serving.status.revision else None


def _not_reconcilable(persona: Persona, verdict: Verdict, now: datetime) -> Plan:
    """What is served and what is finished stays as it is."""
    status = persona.status.model_copy(
        update={
            "observed_generation": persona.generation,
            "conditions": conditions(
                persona.status.conditions,
                verdict,
                generation=persona.generation,
                now=format_time(now),
            ),
        }
    )
    return Plan(actions=(), status=status, events=transition_events(persona.status, status))


def _config_maps(context: Context, builder: PlanBuilder) -> None:
    """Keep the current manifest; drop former ones once no Job can need them."""
    name = context.config_map["metadata"]["name"]
    present = {item for kind, item in context.observed.owned if kind == "ConfigMap"}
    if name not in present:
        builder.act(Apply(context.config_map))
    if not any(context.is_own(job) and not job.ended for job in context.observed.jobs):
        for stale in sorted(present - {name}):
            builder.act(Delete("ConfigMap", stale))
