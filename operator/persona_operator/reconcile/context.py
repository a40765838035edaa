"""What all parts of a reconciliation share: the checked spec, the plan, the observed state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from persona_jobs.api import API_VERSION, KIND, PersonaModelSpec, parse_resource
from persona_jobs.api.common import SecretKeyRef
from persona_jobs.errors import InputError
from persona_jobs.pipeline import graph as pipeline
from persona_jobs.pipeline.graph import PlannedStage

from ..labels import QUEUE_LABEL, QUEUE_PRIORITY_LABEL
from ..profiles import serving_profile, stage_profile
from ..resources.common import Images, Manifest
from ..resources.config_map import build_config_map, stage_manifest
from ..resources.job import StageJob
from ..settings import Settings
from ..store_access import StoreAccess, store_access
from .observed import Job, Observed
from .persona import Persona, text_reference


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
class Context:
    """The inputs of one reconciliation, checked.

    Attributes:
        persona: the PersonaModel.
        spec: its spec, persona text resolved.
        stages: the planned stages in order.
        store: the artifact store.
        config_map: the ConfigMap with the resolved PersonaModel.
        observed: the cluster and the store.
        settings: the administrator's settings.
        now: the time.
    """

    persona: Persona
    spec: PersonaModelSpec
    stages: tuple[PlannedStage, ...]
    store: StoreAccess
    config_map: Manifest
    observed: Observed
    settings: Settings
    now: datetime

    @property
    def fresh_start(self) -> bool:
        """Return whether failed stages are tried again: the spec or retry annotation changed."""
        status = self.persona.status
        return (
            status.observed_generation != self.persona.generation
            or status.last_handled_retry != self.persona.retry
        )

    @property
    def status_is_of_store(self) -> bool:
        """Return whether the status is about results in the current store."""
        return self.persona.status.store in {None, self.store.identity}

    def is_own(self, job: Job) -> bool:
        """Return whether a Job belongs to this PersonaModel."""
        return job.owner_uid == self.persona.owner.uid

    def jobs_images(self) -> Images:
        """Return the jobs image."""
        return images(self.settings, self.settings.jobs_image)

    def stage_job(self, stage: PlannedStage, attempt: int) -> StageJob:
        """Return the values of the Job of one attempt of a stage."""
        secrets: dict[str, SecretKeyRef] = {}
        if self.spec.base_model.token_secret_ref:
            secrets["HF_TOKEN"] = self.spec.base_model.token_secret_ref
        teacher = self.spec.teacher.open_ai
        if stage.name == "rewrite" and teacher and teacher.api_key_secret_ref:
            secrets["OPENAI_API_KEY"] = teacher.api_key_secret_ref
        return StageJob(
            owner=self.persona.owner,
            stage=stage.name,
            key=stage.key,
            attempt=attempt,
            config_map=self.config_map["metadata"]["name"],
            images=self.jobs_images(),
            profile=stage_profile(stage.name, self.spec.execution, self.settings.profiles),
            store=self.store,
            cache=self.settings.cache,
            env=self.settings.env,
            secrets=secrets,
            queue_labels={
                name: self.persona.labels[name]
                for name in (QUEUE_LABEL, QUEUE_PRIORITY_LABEL)
                if QUEUE_LABEL in self.persona.labels and name in self.persona.labels
            },
        )


def make_context(
    persona: Persona, observed: Observed, settings: Settings, now: datetime
) -> Context:
    """Validate the spec and plan the pipeline.

    Raises:
        TerminalError: a wrong spec, a missing persona text, an unknown profile, no store.
    """
    spec = resolve_spec(persona.resource, observed)
    try:
        stages = tuple(pipeline.plan(spec))
    except InputError as error:
        raise TerminalError("InvalidSpec", str(error)) from None
    try:
        store = store_access(spec.storage, settings.store)
    except InputError as error:
        raise TerminalError("StoreNotConfigured", str(error)) from None
    try:
        for stage in stages:
            stage_profile(stage.name, spec.execution, settings.profiles)
        serving_profile(spec.serving, settings.profiles)
    except InputError as error:
        raise TerminalError("UnknownProfile", str(error)) from None
    owner = persona.owner
    manifest = stage_manifest(owner.name, owner.namespace, API_VERSION, KIND, spec)
    config_map = build_config_map(owner, manifest)
    return Context(persona, spec, stages, store, config_map, observed, settings, now)


def resolve_spec(resource: Mapping[str, Any], observed: Observed) -> PersonaModelSpec:
    """Return the validated spec with the persona's text in place.

    Raises:
        TerminalError: a wrong spec or a missing persona text.
    """
    reference = text_reference(resource)
    resolved = dict(resource)
    if reference is not None and "text" not in resource["spec"]["persona"]:
        text = observed.text
        if text is None or text.text is None:
            name, key = reference
            raise TerminalError(
                "PersonaTextNotFound",
                (text.problem if text else "")
                or f"ConfigMap {name}, key {key}, doesn't exist. Create it in this namespace.",
            )
        resolved["spec"] = {**resource["spec"], "persona": {"text": text.text}}
    try:
        return parse_resource(resolved, source=str(resource["metadata"]["name"])).spec
    except InputError as error:
        raise TerminalError("InvalidSpec", error.message) from None


def images(settings: Settings, image: str) -> Images:
    """Return an image with the administrator's pull policy and secrets."""
    return Images(image, settings.image_pull_policy, tuple(settings.image_pull_secrets))
