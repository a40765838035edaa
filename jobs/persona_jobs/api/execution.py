"""Where artifacts are kept and with which means the stages run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .common import ConfigMapKeyRef, LabelName, Quantity, SecretRef, SpecModel, UriOf
from .stages import STAGES, StageName


class Storage(SpecModel):
    """The artifact store. In a cluster, what is left out comes from the chart's values."""

    uri: Annotated[str, UriOf("s3", "file")] | None = None
    """`s3://BUCKET/PREFIX`, or `file:///DIRECTORY` on one machine or a shared volume."""
    endpoint: Annotated[str, UriOf("http", "https")] | None = None
    """S3 endpoint URL of MinIO or another S3 server. Default: AWS."""
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """S3 region."""
    addressing_style: Literal["Path", "VirtualHost"] | None = None
    """How the bucket is named in S3 requests. Default: `Path`."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, given to pods by `envFrom`."""
    ca_bundle_ref: ConfigMapKeyRef | None = None
    """ConfigMap key with the PEM bundle of a private CA."""


class Compute(SpecModel):
    """Device and number format of all stages."""

    device: Literal["Auto", "CPU", "CUDA"] = "Auto"
    """`Auto` takes CUDA where there is a GPU."""
    dtype: Literal["Auto", "Float32", "BFloat16"] = "Auto"
    """`Auto` takes bfloat16 on CUDA and float32 on a CPU. In a cluster, CUDA means that a stage
    has GPUs, counted in its resources or claimed in its profile's `podTemplate`."""


class ResourceList(SpecModel):
    """Resources of a stage's container, instead of the profile's."""

    cpu: Quantity | None = None
    """CPU request."""
    memory: Quantity | None = None
    """Memory request and limit."""
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    """Whole GPUs."""
    scratch: Quantity | None = None
    """Size of the scratch volume."""


class StageSettings(SpecModel):
    """Resources and limits of one stage."""

    name: StageName
    """Stage."""
    profile: LabelName | None = None
    """Resource profile, one of those that the administrator set. Default: one of the stage's name,
    else `default`."""
    resources: ResourceList | None = None
    """Resources instead of the profile's."""
    active_deadline_seconds: Annotated[int, Field(ge=30, le=2_592_000)] | None = None
    """Time limit of one attempt. Default: the profile's."""
    max_retries: Annotated[int, Field(ge=0, le=20)] | None = None
    """Further attempts after a failure that retrying can help. Default: 3."""


class Execution(SpecModel):
    """How the stages run in a cluster. `persona run` ignores it."""

    profile: LabelName | None = None
    """Resource profile of all stages that name none."""
    stages: Annotated[
        list[StageSettings],
        Field(
            max_length=len(STAGES),
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ] = []
    """Settings of single stages."""

    @model_validator(mode="after")
    def _each_stage_once(self) -> Self:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages names {name} more than once")
        return self
