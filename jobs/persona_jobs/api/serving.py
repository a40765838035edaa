"""How the persona's model is served."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from .common import LabelName, Pattern, SpecModel, cel, validations
from .engine import EngineArguments, EngineEnvironment


class Autoscaling(SpecModel):
    """A HorizontalPodAutoscaler on CPU utilization (autoscaling/v2)."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.minReplicas) || self.maxReplicas >= self.minReplicas",
                "maxReplicas must not be below minReplicas",
            )
        )
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Fewest replicas."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas."""
    target_cpu_utilization_percentage: Annotated[
        int, Field(ge=1, le=100, alias="targetCPUUtilizationPercentage")
    ] = 80
    """Average CPU utilization that the replicas are scaled to."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("maxReplicas must not be below minReplicas")
        return self


RevisionId = Annotated[
    str, Pattern(r"^[0-9a-f]{8}$", "must be a revision of status.revisions: 8 hex digits", 8)
]


_ONE_SCALE = "set replicas or autoscaling, not both"


class Serving(SpecModel):
    """The inference Deployment and Service, OpenAI-compatible."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("!has(self.replicas) || !has(self.autoscaling)", _ONE_SCALE),
        )
    )

    mode: Literal["Dedicated", "None"] = "Dedicated"
    """`Dedicated` serves the model with a Deployment of its own; `None` leaves the checkpoint in
    the store only."""
    engine: Literal["Transformers", "VLLM"] = "Transformers"
    """Inference engine; both run on CPU and GPU, with an image that fits."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Number of replicas. Default: 1."""
    autoscaling: Autoscaling | None = None
    """Scale the replicas by CPU utilization, instead of `replicas`."""
    profile: LabelName | None = None
    """Resource profile of the serving pods, one of those that the administrator set. Default:
    `serving`, else `default`."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the engine, instead of the chart's."""
    args: EngineArguments = []
    """Further arguments of the engine, after the profile's."""
    env: EngineEnvironment = []
    """Further environment variables of the engine; they win over the profile's."""
    max_context_tokens: Annotated[int, Field(ge=128, le=1_048_576)] | None = None
    """Longest conversation served. Default: the model's."""
    revision: RevisionId | None = None
    """Serve this revision (of `status.revisions`) instead of the newest one that passed its gate:
    set it to roll back, remove it to follow new revisions again."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = 2400
    """Seconds for the pods of a revision to become ready. Then the former pods serve again, and the
    revision is not tried again until this PersonaModel changes. Changing it replaces the pods."""
    update_strategy: Literal["OnChange", "Always"] = "OnChange"
    """When the pods take over what the administrator changed (images, profiles, environment):
    `OnChange` waits until this PersonaModel changes or another revision is to be served, `Always`
    rolls it out at once. Default: `OnChange`."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.replicas is not None and self.autoscaling is not None:
            raise ValueError(_ONE_SCALE)
        return self

    @property
    def fixed_replicas(self) -> int | None:
        """Number of replicas, None where the autoscaler decides."""
        if self.autoscaling is not None:
            return None
        return 1 if self.replicas is None else self.replicas
