"""Who the persona is: its text, or where the text lies, and how it talks."""

import unicodedata
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from .common import ConfigMapKeyRef, SpecModel, cel, validations

MAX_PERSONA_CHARACTERS = 32_768
MAX_MESSAGE_CHARACTERS = 8_192
MAX_EXAMPLES = 256
MAX_TURNS = 32
# An object of Kubernetes holds 1.5 MiB, and its annotations, where `kubectl apply` keeps a copy of
# it, 256 KiB.
MAX_EXAMPLE_CHARACTERS = 131_072
_ALLOWED_CONTROLS = "\n\t\r"
# The same characters for the API server, which never receives half of a surrogate pair.
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"


def check_persona_text(text: str) -> str:
    """Return `text` unchanged, or raise ValueError saying what is wrong with it."""
    if not text.strip():
        raise ValueError("is empty: describe the persona in a sentence or more")
    return _bounded(text, MAX_PERSONA_CHARACTERS)


def check_message(text: str) -> str:
    """Return a message of a conversation unchanged, or raise ValueError, as for the persona."""
    if not text.strip():
        raise ValueError("is empty: write what is said")
    return _bounded(text, MAX_MESSAGE_CHARACTERS)


def _bounded(text: str, limit: int) -> str:
    if len(text) > limit:
        raise ValueError(f"has {len(text):,} characters; shorten it to {limit:,} or fewer")
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
                    f"!self.matches('[{_CONTROLS}]')",
                    "has control characters: remove them",
                ),
            ),
        }
    ),
]


MessageText = Annotated[
    str,
    AfterValidator(check_message),
    Field(
        json_schema_extra={
            "minLength": 1,
            "maxLength": MAX_MESSAGE_CHARACTERS,
            # A rule of its own would cost too much: it counts for every message of every example.
            "pattern": rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$",
        }
    ),
]


class Turn(SpecModel):
    """What the user says and what the persona answers."""

    query: MessageText
    """What the user says. At most 8,192 characters."""
    answer: MessageText
    """What the persona answers, in its own voice. At most 8,192 characters."""


class Dialogue(SpecModel):
    """A conversation with the persona."""

    turns: Annotated[list[Turn], Field(min_length=1, max_length=MAX_TURNS)]
    """The turns in order; each answer is learned with all that was said before it."""

    @property
    def characters(self) -> int:
        """Number of characters of all messages."""
        return sum(len(turn.query) + len(turn.answer) for turn in self.turns)


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
    examples: Annotated[list[Dialogue], Field(max_length=MAX_EXAMPLES)] = []
    """Conversations as the persona holds them. They join the teacher's answers as they are: most
    are learned from, `dataset.testPercent` of them, at least one of several, are held out for the
    evaluation. At most 131,072 characters in all."""

    @field_validator("examples")
    @classmethod
    def _bounded_examples(cls, examples: list[Dialogue]) -> list[Dialogue]:
        total = sum(dialogue.characters for dialogue in examples)
        if total > MAX_EXAMPLE_CHARACTERS:
            raise ValueError(
                f"have {total:,} characters in all; shorten them to {MAX_EXAMPLE_CHARACTERS:,} or "
                "fewer"
            )
        return examples

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.text is None) == (self.config_map_ref is None):
            raise ValueError("set exactly one of text and configMapRef")
        return self
