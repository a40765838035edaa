"""Arguments and environment of the inference engine."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from .common import Pattern, SpecModel, cel, validations

# Engines take unambiguous beginnings of an option for the option, and pass JSON values on.
_TRUST = (
    "trust[-_]remote[-_]code|^--tr(u|us|ust|ust[-_]|ust[-_]r|ust[-_]re|ust[-_]rem[-_a-z]*)?(=.*)?$"
)
_TRUST_MESSAGE = "must not enable trust_remote_code: a checkpoint's own code is never run"


def check_argument(argument: str) -> str:
    """Return `argument`, or raise ValueError when it would enable trust_remote_code."""
    if re.search(_TRUST, argument):
        raise ValueError(_TRUST_MESSAGE)
    return argument


EngineArgument = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1024,
        json_schema_extra=validations(cel(f"!self.matches('{_TRUST}')", _TRUST_MESSAGE)),
    ),
    AfterValidator(check_argument),
]


class EnvironmentVariable(SpecModel):
    """An environment variable of the engine. Anybody who may read the object reads its value."""

    name: Annotated[
        str,
        Pattern(
            r"^[A-Za-z_][A-Za-z0-9_]*$", "must be letters, digits and '_', no digit first", 128
        ),
    ]
    """Name."""
    value: Annotated[str, Field(max_length=4096)]
    """Value, which is no secret."""


def check_names(variables: list[EnvironmentVariable]) -> list[EnvironmentVariable]:
    """Return `variables`, or raise ValueError when a name is given twice."""
    names = [variable.name for variable in variables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"names {name} more than once")
    return variables


EngineArguments = Annotated[list[EngineArgument], Field(max_length=64)]
EngineEnvironment = Annotated[
    list[EnvironmentVariable],
    Field(
        max_length=64,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    ),
    AfterValidator(check_names),
]
