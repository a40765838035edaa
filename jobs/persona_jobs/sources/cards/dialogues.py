"""The example dialogues of a character card as conversations.

Conversations are apart by `<START>`; each message begins with its speaker, `{{user}}:` or
`{{char}}:`, at the beginning of a line.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

Speaker = Literal["user", "char"]
Messages = list[tuple[Speaker, str]]
_START = re.compile(r"<START>", re.IGNORECASE)
_USER = ("{{user}}", "<user>", "user", "you")
_CHAR = ("{{char}}", "<bot>", "<char>", "{{bot}}")


@dataclass(frozen=True)
class Conversations:
    """What was found in the text.

    Attributes:
        turns: question and answer of each turn, by conversation.
        unanswered: number of messages left out: a question without an answer, an answer without a
            question, and what stands before the first speaker.
    """

    turns: list[list[tuple[str, str]]]
    unanswered: int


def conversations(text: str, names: Collection[str]) -> Conversations:
    """Return the conversations of a card's `mes_example`; macros in them stay as they are.

    Args:
        text: the field.
        names: names of the character.
    """
    speakers: dict[str, Speaker] = {name.casefold(): "char" for name in names}
    speakers.update(dict.fromkeys(_USER, "user"))
    speakers.update(dict.fromkeys(_CHAR, "char"))
    found, unanswered = [], 0
    for block in _START.split(text):
        loose, messages = _messages(block, speakers)
        turns, left = _turns(messages)
        unanswered += left + loose
        if turns:
            found.append(turns)
    return Conversations(found, unanswered)


def _messages(block: str, speakers: dict[str, Speaker]) -> tuple[int, Messages]:
    """Return whether text precedes the first speaker (0 or 1), and the messages."""
    loose = False
    messages: list[tuple[Speaker, list[str]]] = []
    for line in block.split("\n"):
        label, colon, rest = line.partition(":")
        speaker = speakers.get(label.strip().casefold()) if colon else None
        if speaker is not None and messages and messages[-1][0] == speaker:
            messages[-1][1].append(rest.strip())
        elif speaker is not None:
            messages.append((speaker, [rest.strip()]))
        elif messages:
            messages[-1][1].append(line.rstrip())
        else:
            loose = loose or bool(line.strip())
    return int(loose), [(speaker, "\n".join(lines).strip()) for speaker, lines in messages]


def _turns(messages: Messages) -> tuple[list[tuple[str, str]], int]:
    """Return the turns, and the number of messages that belong to none."""
    said = [(speaker, text) for speaker, text in messages if text]
    turns = list(_pairs(said))
    return turns, len(said) - 2 * len(turns)


def _pairs(said: Messages) -> Iterator[tuple[str, str]]:
    query = ""
    for speaker, text in said:
        if speaker == "user":
            query = text
        elif query:
            yield query, text
            query = ""
