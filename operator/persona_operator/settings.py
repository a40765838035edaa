"""What the administrator sets: images, the store, resource profiles, limits. Read from YAML."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from persona_jobs.api.yaml_documents import yaml_documents
from persona_jobs.errors import InputError

CONFIG_VARIABLE = "PERSONA_OPERATOR_CONFIG"
DEFAULT_CONFIG = Path("/etc/persona-operator/config.yaml")
DEFAULT_PROFILE = "default"
SERVING_PROFILE = "serving"


class SettingsModel(BaseModel):
    """Base of all settings: camelCase in YAML, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class ConfigMapKey(SettingsModel):
    """A key of a ConfigMap that exists in each persona's namespace."""

    name: str
    """Name of the ConfigMap."""
    key: str = "ca.crt"
    """Key within the ConfigMap."""


class Volume(SettingsModel):
    """A volume that pods share: exactly one of `claimName` and `hostPath`."""

    claim_name: str | None = None
    """PersistentVolumeClaim in each persona's namespace."""
    host_path: str | None = None
    """Directory of the node. Pod Security "restricted" forbids it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.claim_name is None) == (self.host_path is None):
            raise ValueError("set exactly one of claimName and hostPath")
        return self


class MountedVolume(Volume):
    """A volume and where pods mount it."""

    mount_path: str = "/store"
    """Directory in the pods."""


class Store(SettingsModel):
    """The artifact store of all PersonaModels that name none."""

    uri: str | None = None
    """`s3://BUCKET/PREFIX`, or `file:///DIRECTORY` within `volume`."""
    endpoint: str | None = None
    """S3 endpoint URL; AWS where it is left out."""
    region: str | None = None
    """S3 region."""
    addressing_style: str | None = None
    """`Path` or `VirtualHost`."""
    credentials_secret: str | None = None
    """Secret in each persona's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    ca_config_map: ConfigMapKey | None = None
    """PEM bundle of a private CA."""
    volume: MountedVolume | None = None
    """Volume of a `file://` store."""


class Profile(SettingsModel):
    """Resources and placement that stages and serving pods name."""

    cpu: str | None = None
    """CPU request."""
    memory: str | None = None
    """Memory request and limit."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Whole GPUs."""
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource that counts GPUs."""
    scratch: str | None = None
    """Size limit of the scratch volume."""
    scratch_storage_class: str | None = None
    """Storage class of the scratch volume; node-local `emptyDir` where it is left out."""
    node_selector: dict[str, str] = {}
    """Node labels to schedule on."""
    tolerations: list[dict[str, Any]] = []
    """Taints that pods tolerate."""
    runtime_class_name: str | None = None
    """RuntimeClass of the pods."""
    priority_class_name: str | None = None
    """PriorityClass of the pods."""
    active_deadline_seconds: Annotated[int, Field(ge=30)] | None = None
    """Time limit of one attempt of a stage; 86,400 where it is left out."""
    pod_annotations: dict[str, str] = {}
    """Further annotations of the pods."""
    pod_labels: dict[str, str] = {}
    """Further labels of the pods."""


class Retry(SettingsModel):
    """How failed stages are tried again, where that can help."""

    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further attempts, where the spec sets no other number."""
    backoff_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Pause before the second attempt; doubled for each further one."""
    max_backoff_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest pause."""


class Settings(SettingsModel):
    """Settings of the operator."""

    jobs_image: str = "persona-pruner-jobs:latest"
    """Image of the stages, and of serving pods with the engine `Transformers`."""
    vllm_image: str = "vllm/vllm-openai:latest"
    """Image of serving pods with the engine `VLLM`."""
    image_pull_policy: str = "IfNotPresent"
    """Pull policy of all images."""
    image_pull_secrets: list[str] = []
    """Secrets in each persona's namespace for pulling images."""
    store: Store = Store()
    """The artifact store."""
    cache: Volume | None = None
    """Volume for downloaded base models; below the scratch volume where it is left out."""
    env: dict[str, str] = {}
    """Further environment of stages and serving pods, such as HTTPS_PROXY or HF_ENDPOINT."""
    profiles: dict[str, Profile] = {}
    """Resource profiles by name: `default`, `serving`, one of a stage's name, any other."""
    retry: Retry = Retry()
    """Retries of failed stages."""
    max_parallel_stages: Annotated[int, Field(ge=1)] | None = None
    """At most this many stage Jobs at once, in all namespaces; no limit where it is left out."""
    blocked_grace_seconds: Annotated[float, Field(ge=0)] = 60.0
    """A pod that finds no node, or a Job that a quota stops, counts as stalled after this time."""
    namespaces: list[str] = []
    """Namespaces that are watched; all of them where the list is empty."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9090
    """Port of /metrics; 0 switches it off."""
    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /healthz and /readyz; 0 switches them off."""
    reconcile_interval_seconds: Annotated[float, Field(gt=0)] = 20.0
    """How often every PersonaModel is reconciled without any event."""
    resync_seconds: Annotated[float, Field(gt=0)] = 600.0
    """How often all objects of a PersonaModel are applied again, whether or not they changed."""
    watch_deadline_seconds: Annotated[float, Field(gt=0)] = 120.0
    """A change that no watch delivers within this time makes the liveness probe fail."""
    store_probe_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long an answer of the store that an artifact is absent is believed."""
    delete_timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest time for removing artifacts before a deleted PersonaModel is released anyway."""
    log_level: str = "INFO"
    """Level of the logs."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the settings from a YAML file.

        Raises:
            InputError: unreadable file, not YAML, or wrong fields (each with its path).
        """
        try:
            documents = yaml_documents(path.read_text(encoding="utf-8"), source=str(path))
        except OSError as error:
            raise InputError(
                f"can't be read: {error.strerror}",
                hint=f"Mount the configuration there, or name its file in {CONFIG_VARIABLE}",
                subject=str(path),
            ) from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8 (byte {error.start})",
                hint="Save the file with UTF-8 encoding",
                subject=str(path),
            ) from None
        try:
            return cls.model_validate(documents[0] if documents else {})
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)
            ]
            raise InputError("; ".join(lines), subject=str(path)) from None

    @classmethod
    def from_environment(cls) -> Self:
        """Read the file that PERSONA_OPERATOR_CONFIG names."""
        return cls.load(Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG))
