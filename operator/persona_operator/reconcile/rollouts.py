"""Which pods serve a revision: those that took traffic last, or new ones.

What the user asks for (the revision, `spec.serving`, the store, the retry annotation) is hashed.
While the hash is that of the pods that took traffic last, their recorded template is used again, so
that another operator version, image or profile restarts nobody's pods.
"""

import json
from dataclasses import dataclass

from persona_jobs.api.status import RevisionStatus, ServingStatus

from ..labels import CHECKSUM_ANNOTATION
from ..profiles import serving_profile
from ..resources.common import Manifest, checksum, with_checksum
from ..resources.deployment import ServingDeployment, build_deployment
from .context import Context, images

# Fields of spec.serving that the pods don't depend on; the revision is hashed as resolved.
_NOT_IN_PODS = {"mode", "replicas", "autoscaling", "revision", "update_strategy"}


@dataclass(frozen=True)
class Rollout:
    """The Deployment that is wanted.

    Attributes:
        revision: id of the revision that its pods serve.
        requested: hash of what the user asks for.
        deployment: the manifest.
    """

    revision: str
    requested: str
    deployment: Manifest

    @property
    def checksum(self) -> str:
        """Return the checksum of the manifest."""
        return str(self.deployment["metadata"]["annotations"][CHECKSUM_ANNOTATION])

    @property
    def template(self) -> str:
        """Return the pod template as JSON."""
        return json.dumps(self.deployment["spec"]["template"], separators=(",", ":"))


def wanted_rollout(context: Context, target: RevisionStatus) -> Rollout:
    """Return the Deployment of `target`, with the recorded pod template where it still holds."""
    deployment = _deployment(context, target)
    requested = _requested(context, target, deployment["spec"]["template"])
    recorded = context.persona.status.serving
    if recorded is not None and recorded.requested == requested:
        template = _recorded_template(recorded)
        if template is not None:
            deployment = _with_template(deployment, template)
    return Rollout(target.id, requested, deployment)


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


def _recorded_template(recorded: ServingStatus) -> Manifest | None:
    try:
        template = json.loads(recorded.template or "null")
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
