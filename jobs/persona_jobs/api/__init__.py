"""The PersonaModel resource as pydantic models: spec and status."""

from .evaluation import Evaluation, Gate
from .execution import Compute, Execution, Storage
from .load import load_resource, parse_resource, validate_file, with_recipe
from .persona import Persona, check_persona_text
from .persona_model import (
    API_VERSION,
    GROUP,
    KIND,
    MAX_NAME_LENGTH,
    PLURAL,
    VERSION,
    PersonaModel,
    PersonaModelSpec,
)
from .recipe import RECIPE_KIND, RECIPE_PLURAL, parse_recipe
from .serving import Serving
from .sources import BaseModelSource, Instructions, ReferencePersonas
from .stages import STAGE_NAMES, STAGES, StageName
from .training import Dataset, Pruning, Recovery, Scoring, Teacher

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "MAX_NAME_LENGTH",
    "PLURAL",
    "RECIPE_KIND",
    "RECIPE_PLURAL",
    "STAGES",
    "STAGE_NAMES",
    "VERSION",
    "BaseModelSource",
    "Compute",
    "Dataset",
    "Evaluation",
    "Execution",
    "Gate",
    "Instructions",
    "Persona",
    "PersonaModel",
    "PersonaModelSpec",
    "Pruning",
    "Recovery",
    "ReferencePersonas",
    "Scoring",
    "Serving",
    "StageName",
    "Storage",
    "Teacher",
    "check_persona_text",
    "load_resource",
    "parse_recipe",
    "parse_resource",
    "validate_file",
    "with_recipe",
]
