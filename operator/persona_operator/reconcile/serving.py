"""The inference objects, and how far their roll-out is."""

from dataclasses import dataclass

from persona_jobs.api.status import FailedRollout, RevisionStatus, ServingStatus

from ..labels import CHECKSUM_ANNOTATION, RETRY_ANNOTATION
from ..resources.common import Manifest
from ..resources.deployment import serving_selector
from ..resources.hpa import build_hpa
from ..resources.pdb import build_pdb
from ..resources.service import build_service, service_url
from .blockers import deployment_blocker
from .context import Context
from .observed import Deployment
from .plan import Apply, Delete, PlanBuilder
from .progress import EVENTS_WAKE_SECONDS, is_stalled
from .rollouts import WAIT_SECONDS, Rollout, must_wait, replaces_pods, wanted_rollout
from .times import format_time


@dataclass(frozen=True)
class Serving:
    """State of the inference Deployment.

    Attributes:
        status: its entry in the PersonaModel's status, None where nothing is served.
        served: whether the wanted revision takes traffic.
        reason: one CamelCase word.
        message: the reason as a sentence for people.
        stalled: whether it can't continue before a person fixes something.
    """

    status: ServingStatus | None
    served: bool
    reason: str
    message: str
    stalled: bool = False


def reconcile_serving(
    context: Context, target: RevisionStatus | None, builder: PlanBuilder
) -> Serving:
    """Apply or remove the inference objects, and return how far they are."""
    observed = context.observed
    if context.spec.serving.mode == "None":
        _remove_all(context, builder)
        return Serving(None, False, "NotServed", "Serving is switched off.")
    if target is None:
        kept = context.persona.status.serving if observed.deployment else None
        return Serving(kept, False, "NoRevision", "No revision may be served yet.")
    rollout = wanted_rollout(context, target)
    wanted = [build_service(context.persona.owner), rollout.deployment, *_scaling(context)]
    if replaces_pods(context, rollout):
        builder.rollout = "Waits" if must_wait(context) else "Starts"
    for manifest in wanted:
        held = builder.rollout == "Waits" and manifest is rollout.deployment
        if not held and _differs(context, manifest):
            builder.act(Apply(_with_replicas(context, manifest)))
    present = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in wanted}
    for kind, name in sorted(observed.owned):
        if kind in {"HorizontalPodAutoscaler", "PodDisruptionBudget"} and (
            (kind, name) not in present
        ):
            builder.act(Delete(kind, name))
    return _held_back(context, rollout, builder) or _state(context, rollout, builder)


def _scaling(context: Context) -> list[Manifest]:
    owner, spec = context.persona.owner, context.spec.serving
    wanted: list[Manifest] = []
    scaling = spec.autoscaling
    if scaling:
        wanted.append(
            build_hpa(
                owner,
                min_replicas=scaling.min_replicas,
                max_replicas=scaling.max_replicas,
                target_cpu_percent=scaling.target_cpu_utilization_percentage,
            )
        )
    if (scaling.max_replicas if scaling else spec.fixed_replicas or 0) > 1:
        wanted.append(build_pdb(owner))
    return wanted


def _with_replicas(context: Context, manifest: Manifest) -> Manifest:
    """Return a manifest with the present number of pods where an autoscaler decides about it.

    A field that the operator applied once and then leaves out is reset: ten pods would become one.
    The number is not part of the checksum.
    """
    scaling = context.spec.serving.autoscaling
    if manifest["kind"] != "Deployment" or scaling is None:
        return manifest
    deployment = context.observed.deployment
    live = deployment.wanted if deployment else 0
    replicas = min(max(live, scaling.min_replicas), scaling.max_replicas)
    return {**manifest, "spec": {**manifest["spec"], "replicas": replicas}}


def _differs(context: Context, manifest: Manifest) -> bool:
    observed = context.observed
    kind, metadata = manifest["kind"], manifest["metadata"]
    wanted = metadata["annotations"][CHECKSUM_ANNOTATION]
    if kind == "Deployment":
        found = observed.deployment.checksum if observed.deployment else None
    else:
        found = observed.owned.get((kind, metadata["name"]))
    return observed.resync or found != wanted


def _remove_all(context: Context, builder: PlanBuilder) -> None:
    observed = context.observed
    if observed.deployment:
        builder.act(Delete("Deployment", observed.deployment.name))
    for kind, name in sorted(observed.owned):
        if kind in {"Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}:
            builder.act(Delete(kind, name))


def _held_back(context: Context, rollout: Rollout, builder: PlanBuilder) -> Serving | None:
    """Return the state where the former pods stay, because new ones failed or have to wait."""
    deployment = context.observed.deployment
    before = context.persona.status.serving
    if rollout.failed is not None:
        failed = rollout.failed
        status = _status(context, before, deployment, failed)
        message = (
            f"The roll-out of revision {failed.revision} failed: {failed.message} The former pods "
            f"of revision {rollout.revision} serve again. Change the PersonaModel, or set another "
            f"value of the annotation {RETRY_ANNOTATION}, to try again."
        )
        return Serving(status, False, "RolloutFailed", message, stalled=True)
    if builder.rollout == "Waits":
        builder.wake(WAIT_SECONDS)
        since = before.rollout_waiting_since if before else None
        status = _status(context, before, deployment).model_copy(
            update={"rollout_waiting_since": since or format_time(context.now)}
        )
        message = (
            f"Revision {rollout.revision} is rolled out after other PersonaModels: at most "
            f"{context.settings.max_parallel_rollouts} replace their serving pods at once."
        )
        return Serving(status, False, "WaitingForRollout", message)
    return None


def _state(context: Context, rollout: Rollout, builder: PlanBuilder) -> Serving:
    deployment = context.observed.deployment
    before = context.persona.status.serving
    if deployment is None or deployment.checksum != rollout.checksum:
        # The status of a Deployment that is about to change is not that of the new one.
        status = _status(context, before, deployment)
        return Serving(status, False, "RollingOut", _rolling(rollout, deployment))
    taken_over = ServingStatus(
        revision=rollout.revision,
        engine=context.spec.serving.engine,
        requested=rollout.requested,
        template=rollout.template,
    )
    if deployment.wanted == 0 and deployment.current and deployment.replicas == 0:
        status = _status(context, taken_over, deployment)
        message = f"Revision {rollout.revision} has no replicas."
        return Serving(status, True, "ScaledToZero", message)
    blocker = deployment_blocker(
        deployment, context.observed.serving_pods, context.observed.warnings
    )
    if (
        deployment.current
        and deployment.updated == deployment.replicas
        and deployment.updated > 0
        and deployment.available > 0
    ):
        status = _status(context, taken_over, deployment)
        message = f"Revision {rollout.revision} is served at {status.url}."
        if blocker is not None and deployment.available < deployment.wanted:
            message += f" {deployment.available} of {deployment.wanted} replicas: {blocker.message}"
        return Serving(status, True, "Serving", message)
    status = _status(context, before, deployment)
    if blocker is not None:
        stalled = is_stalled(blocker, context, builder)
        return Serving(status, False, blocker.reason, f"Serving: {blocker.message}", stalled)
    builder.wake(EVENTS_WAKE_SECONDS)
    return Serving(status, False, "RollingOut", _rolling(rollout, deployment))


def _rolling(rollout: Rollout, deployment: Deployment | None) -> str:
    if deployment is None:
        return f"Waiting for the serving pods of revision {rollout.revision}."
    return (
        f"Waiting for the serving pods of revision {rollout.revision}: "
        f"{min(deployment.available, deployment.updated)} of {deployment.wanted} are available."
    )


def _status(
    context: Context,
    serves: ServingStatus | None,
    deployment: Deployment | None,
    failed: FailedRollout | None = None,
) -> ServingStatus:
    """Return the status of a Deployment whose pods take traffic as recorded in `serves`."""
    serves = serves or ServingStatus()
    owner = context.persona.owner
    selector = serving_selector(owner.name)
    return ServingStatus(
        revision=serves.revision,
        requested=serves.requested,
        template=serves.template,
        failed_rollout=failed,
        engine=serves.engine or context.spec.serving.engine,
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        selector=",".join(f"{name}={value}" for name, value in sorted(selector.items())),
        url=service_url(owner),
    )
