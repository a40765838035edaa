"""The resource profiles of the stages and of the serving pods."""

from collections.abc import Mapping

from persona_jobs.api import Execution, Serving
from persona_jobs.errors import InputError

from .labels import STAGE_CONTAINER
from .settings import DEFAULT_PROFILE, SERVING_PROFILE, Profile

DEFAULT_DEADLINE_SECONDS = 86_400


def stage_profile(stage: str, execution: Execution, profiles: Mapping[str, Profile]) -> Profile:
    """Return the stage's profile, overridden by the spec's own resources.

    Raises:
        InputError: the spec names a profile that the administrator hasn't configured.
    """
    own = next((item for item in execution.stages if item.name == stage), None)
    if own is not None and own.profile is not None:
        profile = _named(own.profile, f"spec.execution.stages[{stage}].profile", profiles)
    elif execution.profile is not None:
        profile = _named(execution.profile, "spec.execution.profile", profiles)
    else:
        profile = profiles.get(stage) or profiles.get(DEFAULT_PROFILE) or Profile()
    changes: dict[str, object] = {}
    if own is not None and own.resources is not None:
        changes |= {
            name: value for name, value in own.resources.model_dump().items() if value is not None
        }
    if own is not None and own.active_deadline_seconds is not None:
        changes["active_deadline_seconds"] = own.active_deadline_seconds
    elif profile.active_deadline_seconds is None:
        changes["active_deadline_seconds"] = DEFAULT_DEADLINE_SECONDS
    return profile.model_copy(update=changes)


def serving_profile(serving: Serving, profiles: Mapping[str, Profile]) -> Profile:
    """Return the serving pods' profile, with the engine's arguments and environment of the spec.

    Raises:
        InputError: the spec names a profile that the administrator hasn't configured.
    """
    if serving.profile is not None:
        profile = _named(serving.profile, "spec.serving.profile", profiles)
    else:
        profile = profiles.get(SERVING_PROFILE) or profiles.get(DEFAULT_PROFILE) or Profile()
    env = {variable.name: variable for variable in [*profile.env, *serving.env]}
    changes = {"args": [*profile.args, *serving.args], "env": list(env.values())}
    return profile.model_copy(update=changes)


def has_gpu(profile: Profile) -> bool:
    """Return whether a stage's container gets a GPU: a count, an extended resource, or a claim.

    What a resource claim stands for is written in the cluster, not in the profile: it counts as a
    GPU, which is what stages claim.
    """
    if profile.gpus:
        return True
    spec = profile.pod_template.get("spec") or {}
    for container in spec.get("containers") or []:
        if container.get("name") != STAGE_CONTAINER:
            continue
        resources = container.get("resources") or {}
        limits = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        counted = (str(limits[name]) for name in limits if _counts_gpus(name, profile))
        if resources.get("claims") or any(count != "0" for count in counted):
            return True
    return False


def _counts_gpus(resource: str, profile: Profile) -> bool:
    return resource == profile.gpu_resource or resource.rpartition("/")[2] == "gpu"


def max_retries(stage: str, execution: Execution, default: int) -> int:
    """Return how often a stage is tried again after a failure that another attempt can fix."""
    own = next((item for item in execution.stages if item.name == stage), None)
    return default if own is None or own.max_retries is None else own.max_retries


def _named(name: str, field: str, profiles: Mapping[str, Profile]) -> Profile:
    if name in profiles:
        return profiles[name]
    known = ", ".join(sorted(profiles)) or "none"
    raise InputError(
        f"{field} names the resource profile {name!r}, which doesn't exist",
        hint=f"Use one of the administrator's profiles ({known}) or ask for this one",
        subject=field,
    )
