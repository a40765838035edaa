"""Who the persona is: its text, or where the text lies."""

import unicodedata
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from .common import ConfigMapKeyRef, SpecModel, cel, validations

MAX_PERSONA_CHARACTERS = 32_768
_ALLOWED_CONTROLS = "\n\t\r"


def check_persona_text(text: str) -> str:
    """Return `text` unchanged, or raise ValueError saying what is wrong with it."""
    if not text.strip():
        raise ValueError("is empty: describe the persona in a sentence or more")
    if len(text) > MAX_PERSONA_CHARACTERS:
        raise ValueError(
            f"has {len(text):,} characters; shorten it to {MAX_PERSONA_CHARACTERS:,} or fewer"
        )
    for position, char in enumerate(text):
        if unicodedata.category(char) in ("Cc", "Cs") and char not in _ALLOWED_CONTROLS:
            raise ValueError(
                f"has the control character U+{ord(char):04X} at position {position}: remove it"
            )
    return text


PersonaText = Annotated[
    str,
    AfterValidator(check_persona_text),
    Field(
        json_schema_extra={
            "minLength": 1,
            "maxLength": MAX_PERSONA_CHARACTERS,
            **validations(
                cel(
                    "self.trim().size() > 0", "is empty: describe the persona in a sentence or more"
                ),
                cel(
                    r"!self.matches('[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]')",
                    "has control characters: remove them",
                ),
            ),
        }
    ),
]


class Persona(SpecModel):
    """The persona to play. Exactly one of `text` and `configMapRef`."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.text) != has(self.configMapRef)",
                "set exactly one of text and configMapRef",
            )
        )
    )

    text: PersonaText | None = None
    """The persona's description, used word for word as the system prompt. At most 32,768
    characters."""
    config_map_ref: ConfigMapKeyRef | None = None
    """A ConfigMap key that holds the persona's description. With `persona run` the ConfigMap must
    be another document of the same YAML file."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.text is None) == (self.config_map_ref is None):
            raise ValueError("set exactly one of text and configMapRef")
        return self
