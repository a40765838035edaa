"""Who the persona is: its text, or where the text lies, and how it talks."""

import unicodedata
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from .common import ConfigMapKeyRef, HubRevision, Pattern, SpecModel, UriOf, cel, validations
from .sources import RemoteSource

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


CardUri = Annotated[str, UriOf("hf", "s3", "file", "pkg")]
UserName = Annotated[
    str, Pattern(r"^[^{}<>\x00-\x1f\x7f-\x9f]+$", "must be a name of 1 to 100 characters", 100)
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


class PersonaCard(RemoteSource):
    """A character card, as chat programs exchange them."""

    uri: CardUri
    """Where the card is: `file:///FILE`, `s3://BUCKET/FILE`, `hf://ORG/NAME/FILE` in a data set's
    repository, or `pkg://PACKAGE/FILE`. Version 1, 2 or 3 as JSON, PNG image or charx archive."""
    revision: HubRevision | None = None
    """Commit, branch or tag of an `hf://` card; for any other source a digest of its content or a
    label, as for the base model."""
    user: UserName = "you"
    """What the card's macro `user` stands for."""


_ONE_OF = "set exactly one of text, configMapRef and card"


class Persona(SpecModel):
    """The persona to play. Exactly one of `text`, `configMapRef` and `card`."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "[has(self.text), has(self.configMapRef), has(self.card)].filter(given, given)"
                ".size() == 1",
                _ONE_OF,
            )
        )
    )

    text: PersonaText | None = None
    """The persona's description, used word for word as the system prompt. At most 32,768
    characters."""
    config_map_ref: ConfigMapKeyRef | None = None
    """A ConfigMap key that holds the persona's description. With `persona run` the ConfigMap must
    be another document of the same YAML file."""
    card: PersonaCard | None = None
    """A character card. Its system prompt, description, personality and scenario become the text,
    its example dialogues join `examples`."""
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
        given = [self.text, self.config_map_ref, self.card]
        if sum(source is not None for source in given) != 1:
            raise ValueError(_ONE_OF)
        return self
