"""The resource profiles of the stages and of the serving pods."""

from collections.abc import Mapping
from typing import Any

from persona_jobs.api import Execution, PersonaModelSpec, Serving
from persona_jobs.errors import InputError
from persona_jobs.pipeline.pins import RESOLVE

from .labels import STAGE_CONTAINER
from .settings import DEFAULT_PROFILE, SERVING_PROFILE, Profile

DEFAULT_DEADLINE_SECONDS = 86_400
# The Job that looks up the sources asks servers for tags; only files on a volume are read whole.
_RESOLVE_DEADLINE_SECONDS = 3_600
_RESOLVE_RESOURCES = {"cpu": "100m", "memory": "512Mi"}


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


def stages_without_gpu(spec: PersonaModelSpec) -> set[str]:
    """Return the stages that load no model: a GPU in their pod would be idle."""
    return {"slice", "rewrite"} if spec.teacher.open_ai is not None else {"slice"}


def planned_profile(stage: str, spec: PersonaModelSpec, profiles: Mapping[str, Profile]) -> Profile:
    """Return the profile of a planned stage, without the GPUs that it doesn't use.

    Raises:
        InputError: the spec names a profile that the administrator hasn't configured.
    """
    profile = stage_profile(stage, spec.execution, profiles)
    if stage not in stages_without_gpu(spec):
        return profile
    return profile.model_copy(
        update={"gpus": 0, "pod_template": _without_devices(profile.pod_template)}
    )


def resolve_profile(profiles: Mapping[str, Profile]) -> Profile:
    """Return the profile of the Job that looks up the sources.

    It is the one called `resolve`, else the default one with small resources and without devices.
    """
    profile = profiles.get(RESOLVE)
    if profile is None:
        default = profiles.get(DEFAULT_PROFILE) or Profile()
        small = {
            **_RESOLVE_RESOURCES,
            "gpus": 0,
            "scratch": None,
            "scratch_storage_class": None,
            "active_deadline_seconds": None,
            "pod_template": _without_devices(default.pod_template),
        }
        profile = default.model_copy(update=small)
    deadline = profile.active_deadline_seconds or _RESOLVE_DEADLINE_SECONDS
    return profile.model_copy(update={"active_deadline_seconds": deadline})


def _without_devices(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template without claims and without resources of the stage's container."""
    spec = {**(template.get("spec") or {})}
    spec.pop("resourceClaims", None)
    if "containers" in spec:
        spec["containers"] = [
            {name: value for name, value in container.items() if name != "resources"}
            if container.get("name") == STAGE_CONTAINER
            else container
            for container in spec["containers"] or []
        ]
    return {**template, **({"spec": spec} if "spec" in template else {})}


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
