"""The fields of a character card.

Version 2: https://github.com/malfoyslastname/character-card-spec-v2. Version 3:
https://github.com/kwaroran/character-card-spec-v3. Version 1 has the first six fields at the top.
"""

import json
import unicodedata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ...errors import CardError

MAX_FIELD_CHARACTERS = 65_536
MAX_NAME_CHARACTERS = 100
SPECS = ("chara_card_v2", "chara_card_v3")
_ALLOWED_CONTROLS = "\n\t"
_HINT = "Export the card again, as version 2 or 3"


def _text(value: object) -> object:
    """Return a text with Unix line ends; programs write null for a field that is empty."""
    if value is None:
        return ""
    return value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value


def _counted(value: object) -> int:
    """Return how many entries something has that isn't read."""
    if isinstance(value, dict):
        value = value.get("entries")
    if isinstance(value, list | dict):
        return len(value)
    return int(isinstance(value, str) and bool(value.strip()))


Text = Annotated[str, BeforeValidator(_text)]
Counted = Annotated[int, BeforeValidator(_counted)]


class CharacterCard(BaseModel):
    """What is used of a card, and how much there is of what is not.

    Attributes:
        name: the character's name.
        nickname: what `{{char}}` stands for where a card of version 3 has it.
        description: who the character is.
        personality: the character in short.
        scenario: where and when the conversation takes place.
        mes_example: conversations with the character.
        system_prompt: what the card tells the model to do.
        post_history_instructions: what chat programs put behind the conversation.
        character_book: number of the lorebook's entries.
        first_mes: 1 where the card has a greeting.
        alternate_greetings: number of further greetings.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Text
    nickname: Text = ""
    description: Text = ""
    personality: Text = ""
    scenario: Text = ""
    mes_example: Text = ""
    system_prompt: Text = ""
    post_history_instructions: Text = ""
    character_book: Counted = 0
    first_mes: Counted = 0
    alternate_greetings: Counted = 0

    @property
    def char(self) -> str:
        """What `{{char}}` stands for."""
        return self.nickname.strip() or self.name.strip()


def parse_fields(text: bytes) -> CharacterCard:
    """Return the card of a JSON text.

    Raises:
        CardError: the text is no card, or a field has another type, is too long or has control
            characters; the message names the field.
    """
    document = _document(text)
    is_first_version = "spec" not in document and "data" not in document
    if not is_first_version and document.get("spec") not in SPECS:
        raise CardError(
            f"The card's spec is {_shown(document.get('spec'))}, which is none of "
            + ", ".join(SPECS),
            hint=_HINT,
        )
    data, prefix = (document, "") if is_first_version else (document.get("data"), "data.")
    if not isinstance(data, dict):
        raise CardError("The card's field data is not an object", hint=_HINT)
    if is_first_version and not {"name", "description"} <= data.keys():
        raise CardError(
            "The JSON is no character card: it has neither a spec nor a name and a description",
            hint="Use the character's card, not a lorebook or a preset",
        )
    try:
        card = CharacterCard.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = "is missing" if first["type"] == "missing" else "is not a text"
        raise CardError(
            f"The card's field {prefix}{first['loc'][0]} {reason}", hint=_HINT
        ) from None
    _check(card, prefix)
    return card


def _document(text: bytes) -> dict[str, Any]:
    text = text.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise CardError("The file or the card in it is empty", hint="Export the card again")
    # Nobody wants to read where a photo or a text is malformed as JSON.
    if text.lstrip()[:1] not in (b"{", b"["):
        raise _no_card_file()
    try:
        document = json.loads(text.decode())
    except UnicodeDecodeError:
        raise _no_card_file() from None
    except json.JSONDecodeError as error:
        raise CardError(
            f"The card's JSON is malformed in line {error.lineno}: {error.msg}",
            hint="Export the card again",
        ) from None
    except RecursionError:
        raise CardError(
            "The card's JSON is nested too deeply", hint="Export the card again"
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise CardError(
            "The card's JSON has a number that is too long", hint="Export the card again"
        ) from None
    if not isinstance(document, dict):
        raise CardError("The card's JSON is not an object", hint=_HINT)
    return document


def _no_card_file() -> CardError:
    return CardError(
        "The file is neither a PNG image, a charx archive nor a JSON object in UTF-8",
        hint="Use the .png, .charx or .json that a chat program exports",
    )


def _check(card: CharacterCard, prefix: str) -> None:
    for field in CharacterCard.model_fields:
        value = getattr(card, field)
        if not isinstance(value, str):
            continue
        is_name = field in {"name", "nickname"}
        limit = MAX_NAME_CHARACTERS if is_name else MAX_FIELD_CHARACTERS
        if len(value) > limit:
            raise CardError(
                f"The card's field {prefix}{field} has {len(value):,} characters; it may have "
                f"{limit:,}",
                hint="Shorten it",
            )
        for position, char in enumerate(value):
            if _is_control(char, line=is_name):
                raise CardError(
                    f"The card's field {prefix}{field} has the control character "
                    f"U+{ord(char):04X} at position {position}",
                    hint="Remove it",
                )
    if not card.name.strip():
        raise CardError(f"The card's field {prefix}name is empty", hint="Give the card a name")


def _is_control(char: str, *, line: bool) -> bool:
    """Return whether a character has no place in a text, or in one that is a single line."""
    if line and (char in _ALLOWED_CONTROLS or char in "\u2028\u2029"):
        return True
    return unicodedata.category(char) in ("Cc", "Cs") and char not in _ALLOWED_CONTROLS


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:60] if isinstance(value, str) else "no text"
