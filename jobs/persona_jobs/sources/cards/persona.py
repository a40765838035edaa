"""From a character card to a persona: its text and its conversations."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ...api.persona import (
    MAX_EXAMPLES,
    MAX_MESSAGE_CHARACTERS,
    MAX_PERSONA_CHARACTERS,
    MAX_TURNS,
    Dialogue,
    Turn,
    check_persona_text,
)
from ...errors import CardError
from .dialogues import conversations
from .fields import CharacterCard

_MACRO = re.compile(r"\{\{[ \t]*([a-z_/#]+)([^{}]*)\}\}|<(user|bot|char)>", re.IGNORECASE)
_REMOVED = ("//", "comment", "hidden_key", "original", "trim", "noop")


@dataclass(frozen=True)
class CardPersona:
    """A persona, as a character card describes it.

    Attributes:
        name: the character's name.
        text: the system prompt.
        examples: conversations with the persona.
        notes: what of the card is not used and why, a sentence each, without its full stop.
    """

    name: str
    text: str
    examples: tuple[Dialogue, ...]
    notes: tuple[str, ...]


def persona_of(card: CharacterCard, *, user: str) -> CardPersona:
    """Return the persona of a card.

    The text is the system prompt, description, personality and scenario, and at its end what the
    card wants behind the conversation. `{{char}}` becomes the character's name and `{{user}}` what
    `user` says; no other text is evaluated.

    Args:
        card: the card.
        user: what `{{user}}` stands for.

    Raises:
        CardError: the text is empty or too long.
    """
    kept_macros: dict[str, None] = {}

    def expanded(text: str) -> str:
        return _MACRO.sub(_expansion(card.char, user, kept_macros), text).strip()

    system = expanded(card.system_prompt)
    parts = [
        "" if card.char.casefold() in system.casefold() else f"You are {card.char}.",
        system,
        expanded(card.description),
        _labelled("Personality", expanded(card.personality)),
        _labelled("Scenario", expanded(card.scenario)),
        expanded(card.post_history_instructions),
    ]
    text = "\n\n".join(part for part in parts if part)
    try:
        check_persona_text(text)
    except ValueError as error:
        raise CardError(
            f"The persona's text of the card {str(error).partition(';')[0]}; it may have "
            f"{MAX_PERSONA_CHARACTERS:,}",
            hint="Shorten the card's longest field",
        ) from None
    found = conversations(card.mes_example, {card.name.strip(), card.char} - {""})
    examples, left_out = _dialogues(found.turns, expanded)
    notes = _notes(card, kept_macros, found.unanswered, left_out)
    return CardPersona(card.name.strip(), text, examples, notes)


def _expansion(char: str, user: str, kept: dict[str, None]) -> Callable[[re.Match[str]], str]:
    """Return what replaces a macro; those that stay as they are are collected in `kept`."""
    known = {"char": char, "bot": char, "user": user}

    def replacement(found: re.Match[str]) -> str:
        name = (found[1] or found[3]).lower()
        plain = not (found[2] or "").strip()
        if name in known and plain:
            return known[name]
        if name.startswith("//") or name.partition("/")[0] in _REMOVED:
            return ""
        kept[found[0][:40]] = None
        return found[0]

    return replacement


def _labelled(label: str, text: str) -> str:
    return f"{label}: {text}" if text else ""


def _dialogues(
    found: list[list[tuple[str, str]]], expanded: Callable[[str], str]
) -> tuple[tuple[Dialogue, ...], int]:
    """Return the conversations, and the number of turns that are left out because of a bound."""
    dialogues: list[Dialogue] = []
    left_out = 0
    for conversation in found:
        turns: list[Turn] = []
        for query, answer in (
            (expanded(query), expanded(answer)) for query, answer in conversation
        ):
            fits = all(0 < len(text) <= MAX_MESSAGE_CHARACTERS for text in (query, answer))
            if not fits or len(turns) == MAX_TURNS:
                left_out += 1
            else:
                turns.append(Turn(query=query, answer=answer))
        if len(dialogues) == MAX_EXAMPLES:
            left_out += len(turns)
        elif turns:
            dialogues.append(Dialogue(turns=turns))
    return tuple(dialogues), left_out


def _are(number: int, noun: str) -> str:
    return f"{number:,} {noun} is" if number == 1 else f"{number:,} {noun}s are"


def _notes(
    card: CharacterCard, kept_macros: dict[str, None], unanswered: int, left_out: int
) -> tuple[str, ...]:
    notes = []
    if card.character_book:
        entries = "1 entry" if card.character_book == 1 else f"{card.character_book:,} entries"
        notes.append(
            f"The card's lorebook ({entries}) is not used: what of it applies depends on the "
            "conversation, so it can't become part of the model"
        )
    greetings = card.first_mes + card.alternate_greetings
    if greetings:
        notes.append(
            f"Of the card {_are(greetings, 'greeting')} not used: the persona only answers"
        )
    if unanswered:
        notes.append(
            f"Of the card's example dialogues {_are(unanswered, 'message')} not used: what "
            "{{user}} says needs an answer of {{char}}, and the other way round"
        )
    if left_out:
        notes.append(
            f"Of the card's example dialogues {_are(left_out, 'turn')} not used: too long or too "
            "many"
        )
    if kept_macros:
        shown = ", ".join(list(kept_macros)[:5])
        notes.append(f"Macros other than {{{{char}}}} and {{{{user}}}} stay as they are: {shown}")
    return tuple(notes)
