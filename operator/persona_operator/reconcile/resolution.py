"""From the PersonaModel as written to the spec and the stages that count.

A finished revision stays finished: while the user's own fields are the same, the stages are those
of the status, whatever other keys this version of the operator would compute.

The operator has neither the credentials of the sources nor clients for them. What the spec doesn't
pin is looked up by a Job, once for each spec and value of the retry annotation; the status records
the answer.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from persona_jobs.api import KIND, RECIPE_KIND, PersonaModelSpec, parse_recipe, parse_resource
from persona_jobs.api import with_recipe as merged_with_recipe
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import PlannedStage, plan, planned_names, written_hash
from persona_jobs.pipeline.number_format import with_number_format
from persona_jobs.pipeline.pins import RESOLVE, digest_of, pin_sources, sources, unpinned

from ..profiles import has_gpu, planned_profile, stages_without_gpu
from ..settings import Profile
from .observed import Observed
from .persona import Persona, recipe_reference, text_reference


class TerminalError(Exception):
    """The pipeline can't be planned until a person changes something.

    Args:
        reason: condition reason.
        message: what is wrong and how to fix it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Resolution:
    """A PersonaModel with its recipe merged in and its text in place.

    Attributes:
        spec: the resolved spec, defaults applied, the number format chosen and, once they are
            known, all sources pinned.
        written_hash: hash of the fields that enter content keys, as the user wrote them in the
            PersonaModel and its recipe; defaults don't change it.
        lookup: the Job that looks up the sources, None where the spec pins them all.
        missing: sources that have to be looked up before anything can be planned.
    """

    spec: PersonaModelSpec
    written_hash: str
    lookup: PlannedStage | None = None
    missing: tuple[str, ...] = ()


def resolve(persona: Persona, observed: Observed, profiles: Mapping[str, Profile]) -> Resolution:
    """Return the validated spec with recipe, persona text, number format and sources in place.

    Raises:
        TerminalError: a wrong spec or recipe, a missing recipe or persona text, or an unknown
            profile.
    """
    document = _with_text(_with_recipe(persona.resource, observed), observed)
    try:
        spec = parse_resource(document, source=persona.owner.name).spec
    except InputError as error:
        raise TerminalError("InvalidSpec", error.message) from None
    _check_gpus(spec)
    spec = _with_number_format(spec, profiles)
    return _with_sources(persona, spec, written_hash(document["spec"]))


def planned_stages(
    persona: Persona, resolution: Resolution, store_identity: str
) -> tuple[PlannedStage, ...]:
    """Return the stages of a PersonaModel in order, none while its sources aren't known.

    Raises:
        TerminalError: the pipeline can't be planned.
    """
    finished = _finished_stages(persona, resolution, store_identity)
    if finished or resolution.missing:
        return finished
    try:
        return tuple(plan(resolution.spec))
    except InputError as error:
        raise TerminalError("InvalidSpec", str(error)) from None


def _finished_stages(
    persona: Persona, resolution: Resolution, store_identity: str
) -> tuple[PlannedStage, ...]:
    """Return the finished stages of the status, none where there is anything left to do."""
    status = persona.status
    is_current = (
        status.written_hash == resolution.written_hash
        and status.last_handled_retry == persona.retry
        and status.store in {None, store_identity}
    )
    if not is_current or any(item.state != "Succeeded" for item in status.stages):
        return ()
    keys = {item.name: item.key for item in status.stages}
    if not any(item.slice_key == keys.get("slice") for item in status.revisions):
        return ()
    return tuple(PlannedStage(name, 0, key, {}, {}) for name, key in keys.items())


def _with_sources(persona: Persona, spec: PersonaModelSpec, written: str) -> Resolution:
    """Pin the sources to what the spec says, and to what the status records of the others."""
    document = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    names = unpinned(document)
    lookup = _lookup(persona, document, names, written) if names else None
    found = _recorded(persona, lookup)
    missing = tuple(name for name in names if name not in found)
    if missing:
        return Resolution(spec, written, lookup, missing)
    pin_sources(document, found)
    return Resolution(PersonaModelSpec.model_validate(document), written, lookup)


def _lookup(persona: Persona, spec: dict[str, Any], names: list[str], written: str) -> PlannedStage:
    """Return the lookup as a stage whose key changes when the sources are to be looked up anew."""
    asked = "\n".join((persona.owner.uid, written, persona.retry or ""))
    uris = {source.name: source.uri for source in sources(spec) if source.name in names}
    return PlannedStage(RESOLVE, 1, hashlib.sha256(asked.encode()).hexdigest(), {}, uris)


def _recorded(persona: Persona, lookup: PlannedStage | None) -> dict[str, str]:
    """Return commit or digest by name of the sources that the status records for a lookup."""
    status = persona.status
    state = status.resolution
    if lookup is None or state is None or (state.key, state.state) != (lookup.key, "Succeeded"):
        return {}
    found = {item.name: digest_of(item.revision) for item in status.sources}
    return {name: digest for name, digest in found.items() if digest is not None}


def _check_gpus(spec: PersonaModelSpec) -> None:
    """Refuse GPUs that the spec itself asks for, for a stage that loads no model."""
    for item in spec.execution.stages:
        gpus = item.resources.gpus if item.resources is not None else None
        if gpus and item.name in stages_without_gpu(spec):
            raise TerminalError(
                "InvalidSpec",
                f"spec.execution.stages[{item.name}].resources.gpus is {gpus}, but stage "
                f"{item.name} loads no model. Remove the field.",
            )


def _with_number_format(
    spec: PersonaModelSpec, profiles: Mapping[str, Profile]
) -> PersonaModelSpec:
    def any_gpus() -> bool:
        return any(has_gpu(planned_profile(name, spec, profiles)) for name in planned_names(spec))

    try:
        return with_number_format(spec, any_gpus)
    except InputError as error:
        raise TerminalError("UnknownProfile", str(error)) from None


def _with_recipe(resource: Mapping[str, Any], observed: Observed) -> dict[str, Any]:
    name = recipe_reference(resource)
    if name is None:
        return dict(resource)
    recipe = observed.recipe
    if recipe is None:
        raise TerminalError(
            "RecipeNotFound",
            f"{RECIPE_KIND} {name} doesn't exist in this namespace. Create it, or remove "
            "spec.recipeRef.",
        )
    try:
        spec = parse_recipe(recipe, source=f"{RECIPE_KIND} {name}").spec
    except InputError as error:
        raise TerminalError("InvalidRecipe", error.message) from None
    return merged_with_recipe(resource, spec)


def _with_text(resource: dict[str, Any], observed: Observed) -> dict[str, Any]:
    reference = text_reference(resource)
    if reference is None or "text" in resource["spec"]["persona"]:
        return resource
    text = observed.text
    if text is None or text.text is None:
        name, key = reference
        raise TerminalError(
            "PersonaTextNotFound",
            (text.problem if text else "")
            or f"ConfigMap {name}, key {key}, doesn't exist. Create it in this {KIND}'s namespace.",
        )
    persona = resource["spec"]["persona"]
    given = {field: value for field, value in persona.items() if field != "configMapRef"}
    return {**resource, "spec": {**resource["spec"], "persona": {**given, "text": text.text}}}
