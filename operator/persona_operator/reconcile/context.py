"""What all parts of a reconciliation share: the checked spec, the plan, the observed state."""

from dataclasses import dataclass, replace
from datetime import datetime

from persona_jobs.api import API_VERSION, KIND, PersonaModelSpec
from persona_jobs.api.common import SecretKeyRef
from persona_jobs.api.endpoint import TEACHER_KEY_VARIABLE, Endpoint, judge_key_variable
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import PlannedStage
from persona_jobs.pipeline.pins import RESOLVE, sources, variable_prefix

from ..labels import QUEUE_LABEL, QUEUE_PRIORITY_LABEL
from ..profiles import planned_profile, resolve_profile, serving_profile
from ..resources.common import Images, Manifest
from ..resources.config_map import build_config_map, stage_manifest
from ..resources.job import StageJob
from ..settings import Profile, Settings
from ..store_access import StoreAccess, store_access
from .observed import Job, Observed
from .persona import Persona
from .resolution import TerminalError, planned_stages, resolve
from .sidecars import settle


@dataclass(frozen=True)
class Context:
    """The inputs of one reconciliation, checked.

    Attributes:
        persona: the PersonaModel.
        spec: its spec, recipe and persona text resolved.
        written_hash: hash of the fields that enter content keys, as the user wrote them.
        stages: the planned stages in order, none while the sources have to be looked up.
        lookup: the Job that looks up the sources, None where the spec pins them all.
        store: the artifact store.
        config_map: the ConfigMap with the resolved PersonaModel.
        observed: the cluster and the store.
        settings: the administrator's settings.
        now: the time.
    """

    persona: Persona
    spec: PersonaModelSpec
    written_hash: str
    stages: tuple[PlannedStage, ...]
    lookup: PlannedStage | None
    store: StoreAccess
    config_map: Manifest
    observed: Observed
    settings: Settings
    now: datetime

    @property
    def pending_lookup(self) -> PlannedStage | None:
        """Return the lookup of the sources while nothing can be planned without it."""
        return None if self.stages else self.lookup

    @property
    def status_is_of_store(self) -> bool:
        """Return whether the status is about results in the current store."""
        return self.persona.status.store in {None, self.store.identity}

    def is_own(self, job: Job) -> bool:
        """Return whether a Job belongs to this PersonaModel."""
        owner = self.persona.owner
        return (job.namespace, job.owner_uid) == (owner.namespace, owner.uid)

    def jobs_images(self) -> Images:
        """Return the jobs image."""
        return images(self.settings, self.settings.jobs_image)

    def stage_job(self, stage: PlannedStage, attempt: int) -> StageJob:
        """Return the values of the Job of one attempt of a stage."""
        return StageJob(
            owner=self.persona.owner,
            stage=stage.name,
            key=stage.key,
            attempt=attempt,
            config_map=self.config_map["metadata"]["name"],
            images=self.jobs_images(),
            profile=self._profile(stage.name),
            store=self.store,
            cache=self.settings.cache,
            env=self.settings.env,
            secrets=self._api_keys(stage.name),
            source_secrets=self._source_secrets(),
            security_context=self.settings.security_context,
            queue_labels={
                name: self.persona.labels[name]
                for name in (QUEUE_LABEL, QUEUE_PRIORITY_LABEL)
                if QUEUE_LABEL in self.persona.labels and name in self.persona.labels
            },
        )

    def _api_keys(self, stage: str) -> dict[str, SecretKeyRef]:
        """Return the Secret keys of the endpoints that a stage asks, by environment variable."""
        endpoints: dict[str, Endpoint | None] = {}
        if stage == "rewrite":
            endpoints[TEACHER_KEY_VARIABLE] = self.spec.teacher.open_ai
        if stage == "evaluate":
            judges = self.spec.evaluation.judges
            endpoints |= {judge_key_variable(judge.name): judge.open_ai for judge in judges}
        return {
            variable: endpoint.api_key_secret_ref
            for variable, endpoint in endpoints.items()
            if endpoint is not None and endpoint.api_key_secret_ref is not None
        }

    def _source_secrets(self) -> dict[str, str]:
        """Return the Secrets of the sources by the prefix of their environment variables."""
        document = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        secrets = {item.name: item.fields.get("credentialsSecretRef") for item in sources(document)}
        return {variable_prefix(name): ref["name"] for name, ref in secrets.items() if ref}

    def _profile(self, stage: str) -> Profile:
        if stage == RESOLVE:
            return resolve_profile(self.settings.profiles)
        return planned_profile(stage, self.spec, self.settings.profiles)


def make_context(
    persona: Persona, observed: Observed, settings: Settings, now: datetime
) -> Context:
    """Validate the spec and plan the pipeline.

    Raises:
        TerminalError: a wrong spec, a missing persona text, an unknown profile, no store.
    """
    observed = replace(observed, jobs=tuple(settle(job) for job in observed.jobs))
    resolution = resolve(persona, observed, settings.profiles)
    spec = resolution.spec
    try:
        store = store_access(spec.storage, settings.store)
    except InputError as error:
        raise TerminalError("StoreNotConfigured", str(error)) from None
    stages = planned_stages(persona, resolution, store.identity)
    try:
        for stage in stages:
            planned_profile(stage.name, spec, settings.profiles)
        serving_profile(spec.serving, settings.profiles)
    except InputError as error:
        raise TerminalError("UnknownProfile", str(error)) from None
    owner = persona.owner
    manifest = stage_manifest(owner.name, owner.namespace, API_VERSION, KIND, spec)
    config_map = build_config_map(owner, manifest)
    return Context(
        persona=persona,
        spec=spec,
        written_hash=resolution.written_hash,
        stages=stages,
        lookup=resolution.lookup,
        store=store,
        config_map=config_map,
        observed=observed,
        settings=settings,
        now=now,
    )


def images(settings: Settings, image: str) -> Images:
    """Return an image with the administrator's pull policy and secrets."""
    return Images(image, settings.image_pull_policy, tuple(settings.image_pull_secrets))
