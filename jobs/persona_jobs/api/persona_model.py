"""The PersonaModel resource: the only input format, in a cluster and on a laptop."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .common import ObjectName, SpecModel, cel, validations
from .evaluation import Evaluation
from .execution import Compute, Execution, Storage
from .exports import Exports
from .persona import Persona
from .serving import Serving
from .sources import BaseModelSource, Instructions, ReferencePersonas
from .training import Dataset, Pruning, Recovery, Scoring, Teacher

GROUP = "persona-pruner.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "PersonaModel"
PLURAL = "personamodels"
# Names of Jobs and Deployments are `<name>-<stage>-<key8>`; pod names add up to 12 characters, and
# labels hold 63.
MAX_NAME_LENGTH = 40
# A Service bears the persona's name, and names of Services start with a letter.
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"


class RecipeReference(SpecModel):
    """A PersonaRecipe in the same namespace."""

    name: ObjectName
    """Name of the PersonaRecipe."""


class PersonaModelSpec(SpecModel):
    """What the persona's model is made from, how, and how it is served."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.baseModel) || !has(oldSelf.baseModel) || ("
                "(has(self.baseModel.uri) ? self.baseModel.uri : '') == "
                "(has(oldSelf.baseModel.uri) ? oldSelf.baseModel.uri : '') && "
                "(has(self.baseModel.revision) ? self.baseModel.revision : '') == "
                "(has(oldSelf.baseModel.revision) ? oldSelf.baseModel.revision : ''))",
                "baseModel is immutable: create another PersonaModel for another base model",
                ".baseModel",
            ),
        )
    )

    persona: Persona
    """The persona to play."""
    recipe_ref: RecipeReference | None = None
    """A PersonaRecipe in the same namespace, which gives all fields that are not set here."""
    base_model: BaseModelSource
    """The dense model to prune; required, here or in the recipe. Its URI and revision are
    immutable here."""
    instructions: Instructions = Instructions()
    """General instructions with neutral answers."""
    reference_personas: ReferencePersonas = ReferencePersonas()
    """Personas that the target is compared with."""
    scoring: Scoring = Scoring()
    """How instructions are ranked by persona sensitivity."""
    teacher: Teacher = Teacher()
    """Who writes the persona's answers."""
    dataset: Dataset = Dataset()
    """How the persona's data is divided."""
    pruning: Pruning = Pruning()
    """How the mask is learned."""
    recovery: Recovery = Recovery()
    """How the sliced model recovers the dense model's behaviour."""
    evaluation: Evaluation = Evaluation()
    """What is measured, and the gate for traffic."""
    exports: Exports = []
    """Forms in which the finished model is written for other programs. They are made after the
    evaluation and keep no revision from taking traffic."""
    serving: Serving = Serving()
    """How the model is served."""
    storage: Storage = Storage()
    """Where artifacts are kept."""
    compute: Compute = Compute()
    """Device and number format."""
    execution: Execution = Execution()
    """Resources of the stages in a cluster."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """Seed of all random choices."""
    suspend: bool = False
    """Start no further stage; running Jobs are suspended. What is served stays."""
    artifact_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to the stored artifacts when the PersonaModel is deleted. `Delete` removes those
    that nobody else uses, in this cluster or elsewhere."""


class Metadata(BaseModel):
    """The part of Kubernetes object metadata that is read here; everything else is ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _name(self) -> Self:
        if len(self.name) > MAX_NAME_LENGTH or not re.fullmatch(NAME_PATTERN, self.name):
            raise ValueError(
                "name must be lower-case letters, digits and '-', begin with a letter, and be at "
                f"most {MAX_NAME_LENGTH} long"
            )
        return self


class PersonaModel(BaseModel):
    """A PersonaModel manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    api_version: Annotated[Literal["persona-pruner.io/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["PersonaModel"]
    metadata: Metadata
    spec: PersonaModelSpec
    status: Annotated[Any, Field(exclude=True)] = None

    def manifest(self) -> dict[str, Any]:
        """The manifest as plain JSON, defaults included."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
