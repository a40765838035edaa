"""Which pods serve a revision: those that took traffic last, or new ones.

What the user asks for (the revision, `spec.serving`, the store, the retry annotation) is hashed.
While the hash is that of the pods that took traffic last, their recorded template is used again, so
that another operator version, image or profile restarts nobody's pods.

Pods that don't become ready within the Deployment's progress deadline are taken back: the recorded
ones serve again until the user asks for something else.
"""

import json
from dataclasses import dataclass

from persona_jobs.api.status import FailedRollout, RevisionStatus, ServingStatus

from ..labels import CHECKSUM_ANNOTATION
from ..profiles import serving_profile
from ..resources.common import Manifest, checksum, with_checksum
from ..resources.deployment import ServingDeployment, build_deployment
from .blockers import deployment_blocker
from .context import Context, images

WAIT_SECONDS = 5.0
# Fields of spec.serving that the pods don't depend on; the revision is hashed as resolved.
_NOT_IN_PODS = {"mode", "replicas", "autoscaling", "revision", "update_strategy"}


@dataclass(frozen=True)
class Rollout:
    """The Deployment that is wanted.

    Attributes:
        revision: id of the revision that its pods serve.
        requested: hash of what the user asks for.
        deployment: the manifest.
        failed: the roll-out that was taken back in favour of this one.
    """

    revision: str
    requested: str
    deployment: Manifest
    failed: FailedRollout | None = None

    @property
    def checksum(self) -> str:
        """Return the checksum of the manifest."""
        return str(self.deployment["metadata"]["annotations"][CHECKSUM_ANNOTATION])

    @property
    def template(self) -> str:
        """Return the pod template as JSON."""
        return json.dumps(self.deployment["spec"]["template"], separators=(",", ":"))


def wanted_rollout(context: Context, target: RevisionStatus) -> Rollout:
    """Return the Deployment of `target`, or of what took traffic before where that failed."""
    deployment = _deployment(context, target)
    requested = _requested(context, target, deployment["spec"]["template"])
    recorded = context.persona.status.serving
    template = _recorded_template(recorded)
    if recorded is None or template is None:
        return Rollout(target.id, requested, deployment)
    if recorded.requested == requested:
        return Rollout(target.id, requested, _with_template(deployment, template))
    rollout = Rollout(target.id, requested, deployment)
    former = _revision(context, recorded.revision)
    failed = _failure(context, recorded, rollout)
    if former is None or recorded.requested is None or failed is None:
        return rollout
    deployment = _with_template(_deployment(context, former), template)
    return Rollout(former.id, recorded.requested, deployment, failed)


def replaces_pods(context: Context, rollout: Rollout) -> bool:
    """Return whether to replace pods that take traffic; former pods come back without waiting."""
    live, recorded = context.observed.deployment, context.persona.status.serving
    if live is None or rollout.failed is not None or live.checksum == rollout.checksum:
        return False
    template = _recorded_template(recorded)
    return template is not None and template != rollout.deployment["spec"]["template"]


def must_wait(context: Context) -> bool:
    """Return whether as many PersonaModels as allowed roll out, or have waited longer."""
    limit = context.settings.max_parallel_rollouts
    return limit is not None and context.observed.rollouts_ahead >= limit


def _revision(context: Context, wanted: str | None) -> RevisionStatus | None:
    """Return a revision in the current store."""
    for item in context.persona.status.revisions:
        if item.id == wanted and item.store in {None, context.store.identity}:
            return item
    return None


def _failure(context: Context, recorded: ServingStatus, rollout: Rollout) -> FailedRollout | None:
    """Return why a roll-out is given up, None where it may go on."""
    known = recorded.failed_rollout
    if known is not None and known.requested == rollout.requested:
        return known
    observed = context.observed
    deployment = observed.deployment
    if deployment is None or deployment.checksum != rollout.checksum:
        return None
    if not deployment.current or not deployment.deadline_exceeded:
        return None
    blocker = deployment_blocker(deployment, observed.serving_pods, observed.warnings)
    message = "The serving pods didn't become ready in time."
    if blocker is not None and blocker.reason != "RolloutStuck":
        message = blocker.message
    return FailedRollout(revision=rollout.revision, requested=rollout.requested, message=message)


def _deployment(context: Context, target: RevisionStatus) -> Manifest:
    spec, settings = context.spec.serving, context.settings
    default = settings.vllm_image if spec.engine == "VLLM" else settings.jobs_image
    return build_deployment(
        ServingDeployment(
            owner=context.persona.owner,
            revision=target.id,
            slice_key=target.slice_key,
            engine=spec.engine,
            fetch_images=context.jobs_images(),
            images=images(settings, spec.image or default),
            profile=serving_profile(spec, settings.profiles),
            store=context.store,
            replicas=spec.fixed_replicas,
            progress_deadline_seconds=spec.progress_deadline_seconds,
            max_context_tokens=spec.max_context_tokens,
            env=settings.env,
            security_context=settings.security_context,
        )
    )


def _requested(context: Context, target: RevisionStatus, template: Manifest) -> str:
    """Hash what decides about new pods, without neutral values: a later field changes no hash."""
    spec = context.spec
    document = {
        "revision": target.slice_key or target.id,
        "store": [target.store, spec.storage.model_dump(mode="json", exclude_defaults=True)],
        "serving": spec.serving.model_dump(
            mode="json", exclude_defaults=True, exclude=_NOT_IN_PODS
        ),
        "retry": context.persona.retry,
    }
    if spec.serving.update_strategy == "Always":
        document["template"] = template
    return checksum(document)


def _recorded_template(recorded: ServingStatus | None) -> Manifest | None:
    try:
        template = json.loads((recorded.template if recorded else None) or "null")
    except ValueError:
        return None
    return template if isinstance(template, dict) else None


def _with_template(deployment: Manifest, template: Manifest) -> Manifest:
    metadata = {
        name: value for name, value in deployment["metadata"].items() if name != "annotations"
    }
    return with_checksum(
        {**deployment, "metadata": metadata, "spec": {**deployment["spec"], "template": template}}
    )
