"""The administrator's settings: images, the store, resource profiles, limits. Read from YAML."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from persona_jobs.api.common import Quantity
from persona_jobs.api.engine import EngineArguments, EngineEnvironment, check_argument
from persona_jobs.api.yaml_documents import yaml_documents
from persona_jobs.errors import InputError

from .labels import FETCH_CONTAINER, SERVING_CONTAINER, STAGE_CONTAINER

CONFIG_VARIABLE = "PERSONA_OPERATOR_CONFIG"
DEFAULT_CONFIG = Path("/etc/persona-operator/config.yaml")
DEFAULT_PROFILE = "default"
SERVING_PROFILE = "serving"
_MISPLACED_CONTAINERS = {
    "containers": {FETCH_CONTAINER},
    "initContainers": {STAGE_CONTAINER, SERVING_CONTAINER},
}
_Model = TypeVar("_Model", bound=BaseModel)
SecurityContext = Literal["Restricted", "Platform"]


class SettingsModel(BaseModel):
    """Base of all settings: camelCase in YAML, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_or_empty_is_not_set(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item not in (None, "")}


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


def _unset_if_empty(value: Any) -> Any:
    """Return None for a part whose fields are all null or empty."""
    is_empty = isinstance(value, dict) and all(item in (None, "") for item in value.values())
    return None if is_empty else value


class Store(SettingsModel):
    """The artifact store of all PersonaModels that name no store."""

    uri: str | None = None
    """`s3://BUCKET/PREFIX`, or `file:///DIRECTORY` within `volume`."""
    endpoint: str | None = None
    """S3 endpoint URL; AWS by default."""
    region: str | None = None
    """S3 region."""
    addressing_style: str | None = None
    """`Path` or `VirtualHost`."""
    credentials_secret: str | None = None
    """Secret in each persona's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    ca_config_map: ConfigMapKey | None = None
    """PEM bundle of a private CA."""
    volume: Annotated[MountedVolume | None, BeforeValidator(_unset_if_empty)] = None
    """Volume of a `file://` store."""


def _check_pod_template(template: dict[str, Any]) -> dict[str, Any]:
    """Return a partial PodTemplateSpec, or raise ValueError when it can't be merged."""
    metadata = template.get("metadata") or {}
    unknown = sorted(set(template) - {"metadata", "spec"})
    unknown += [f"metadata.{name}" for name in sorted(set(metadata) - {"labels", "annotations"})]
    if unknown:
        raise ValueError(
            f"{unknown[0]} is not supported; set metadata.labels, metadata.annotations or spec"
        )
    spec = template.get("spec") or {}
    for name, misplaced in _MISPLACED_CONTAINERS.items():
        for container in spec.get(name) or []:
            if container.get("name") in misplaced:
                raise ValueError(f"spec.{name} can't hold the container {container['name']}")
            for argument in [*(container.get("command") or []), *(container.get("args") or [])]:
                check_argument(str(argument))
            _check_named(container, "env", "name", f"spec.{name}[{container.get('name')}]")
            _check_named(container, "volumeMounts", "mountPath", f"spec.{name}")
        _check_named(spec, name, "name", "spec")
    _check_named(spec, "volumes", "name", "spec")
    whole: dict[str, Any] = _whole_numbers(template)
    return whole


def _check_named(parent: dict[str, Any], field: str, key: str, path: str) -> None:
    if not all(isinstance(item.get(key), str) for item in parent.get(field) or []):
        raise ValueError(f"each item of {path}.{field} needs a {key}")


def _whole_numbers(value: Any) -> Any:
    """Return `value` with integers instead of whole floats, as which Helm writes large ones."""
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


ProfileQuantity = Annotated[Quantity, BeforeValidator(_whole_numbers)]


class Profile(SettingsModel):
    """Resources and placement that stages and serving pods name."""

    cpu: ProfileQuantity | None = None
    """CPU request."""
    memory: ProfileQuantity | None = None
    """Memory request and limit."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Whole GPUs."""
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource that counts GPUs."""
    scratch: ProfileQuantity | None = None
    """Size limit of the scratch volume."""
    scratch_storage_class: str | None = None
    """Storage class of the scratch volume, and of the volume of a served model, which has the same
    size; node-local `emptyDir` by default."""
    node_selector: dict[str, str] = {}
    """Node labels to schedule on."""
    tolerations: list[dict[str, Any]] = []
    """Taints that pods tolerate."""
    runtime_class_name: str | None = None
    """RuntimeClass of the pods."""
    priority_class_name: str | None = None
    """PriorityClass of the pods."""
    active_deadline_seconds: Annotated[int, Field(ge=30)] | None = None
    """Time limit of one attempt of a stage, from its pod's start on a node; 86,400 by default."""
    pod_annotations: dict[str, str] = {}
    """Further annotations of the pods."""
    pod_labels: dict[str, str] = {}
    """Further labels of the pods."""
    args: EngineArguments = []
    """Further arguments of the inference engine."""
    env: EngineEnvironment = []
    """Further environment variables of the inference engine."""
    pod_template: Annotated[dict[str, Any], AfterValidator(_check_pod_template)] = {}
    """Partial PodTemplateSpec that is merged into the pods and wins over all fields above."""


class Retry(SettingsModel):
    """Retries of failed stages, where another attempt can help."""

    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Number of retries, unless the spec sets its own."""
    backoff_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Delay before the first retry; doubled for each further one."""
    max_backoff_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest delay."""


class Settings(SettingsModel):
    """Settings of the operator."""

    jobs_image: str = "persona-pruner-jobs:latest"
    """Image of the stages, and of serving pods with the engine `Transformers`."""
    vllm_image: str = "vllm/vllm-openai:latest"
    """Image of serving pods with the engine `VLLM`."""
    image_pull_policy: str = "IfNotPresent"
    """Pull policy of all images."""
    security_context: SecurityContext = "Restricted"
    """`Restricted` sets the user 65532 and its group; `Platform` leaves users and groups to the
    platform, such as OpenShift. Both meet Pod Security "restricted"."""
    image_pull_secrets: list[str] = []
    """Secrets in each persona's namespace for pulling images."""
    store: Store = Store()
    """The artifact store."""
    cache: Annotated[Volume | None, BeforeValidator(_unset_if_empty)] = None
    """Volume for downloaded base models; by default a folder of the scratch volume."""
    env: dict[str, str] = {}
    """Further environment of stages and serving pods, such as HTTPS_PROXY or HF_ENDPOINT."""
    profiles: dict[str, Profile] = {}
    """Resource profiles by name: `default`, `serving`, `resolve`, the name of a stage, or any
    other."""
    profiles_file: Path | None = None
    """YAML file with the profiles, instead of `profiles`; read again when it changes."""
    retry: Retry = Retry()
    """Retries of failed stages."""
    max_parallel_stages: Annotated[int, Field(ge=1)] | None = None
    """Most stage Jobs at once, in all namespaces; no limit by default."""
    max_parallel_rollouts: Annotated[int, Field(ge=1)] | None = None
    """Most PersonaModels whose serving pods are replaced at once; no limit by default."""
    blocked_grace_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Time after which a pod that would fit no node, even an empty one, or that exceeds a whole
    quota, counts as stalled: an autoscaler may add such a node until then."""
    namespaces: list[str] = []
    """Namespaces that are watched; all of them where the list is empty."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9090
    """Port of /metrics; 0 switches it off."""
    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /healthz and /readyz; 0 switches them off."""
    reconcile_interval_seconds: Annotated[float, Field(gt=0)] = 20.0
    """How often the profiles are read, and persona texts in ConfigMaps are looked at again."""
    resync_seconds: Annotated[float, Field(gt=0)] = 600.0
    """How often every PersonaModel is reconciled and its objects are compared without any event."""
    watch_deadline_seconds: Annotated[float, Field(gt=0)] = 120.0
    """The liveness probe fails when no watch delivers a change within this time."""
    store_probe_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long the operator remembers that a result is not in the store."""
    lease_seconds: Annotated[float, Field(ge=3)] = 15.0
    """Another operator takes over after this time where the present one doesn't renew its Lease."""
    lease_namespace: str = "kube-system"
    """Namespace of the Lease of an operator for all namespaces; others have one per namespace."""
    delete_timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest time for removing artifacts before a deleted PersonaModel is released anyway."""
    log_level: str = "INFO"
    """Level of the logs."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the settings from a YAML file, and the profiles from the file that it names.

        Raises:
            InputError: unreadable file, not YAML, or wrong fields (each with its path).
        """
        settings = _validated(path, cls)
        if settings.profiles_file is None:
            return settings
        return settings.model_copy(update={"profiles": read_profiles(settings.profiles_file)})

    @classmethod
    def from_environment(cls) -> Self:
        """Read the file whose path is in PERSONA_OPERATOR_CONFIG."""
        return cls.load(Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG))


def read_profiles(path: Path) -> dict[str, Profile]:
    """Read resource profiles by name from a YAML file.

    Raises:
        InputError: unreadable file, not YAML, or wrong fields (each with its path).
    """
    return _validated(path, _Profiles).root


class _Profiles(RootModel[dict[str, Profile]]):
    """Resource profiles by name."""


def _validated(path: Path, model: type[_Model]) -> _Model:
    try:
        documents = yaml_documents(path.read_text(encoding="utf-8"), source=str(path))
    except OSError as error:
        raise InputError(
            f"{path} can't be read: {error.strerror}",
            hint=f"Mount the configuration at this path, or set {CONFIG_VARIABLE} to its path",
            subject=str(path),
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start})",
            hint="Save the file with UTF-8 encoding",
            subject=str(path),
        ) from None
    try:
        return model.model_validate(documents[0] if documents else {})
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise InputError("; ".join(lines), subject=str(path)) from None
