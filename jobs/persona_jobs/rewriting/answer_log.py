"""The teacher's raw answers as a file, so that none is asked for twice."""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..dataset import write_jsonl
from ..endpoints import ChatAnswer, Ending

FILE_NAME = "answers.jsonl"


class LoggedAnswer(BaseModel):
    """One line.

    Attributes:
        request: digest of the request.
        text: the answer as it came.
        ending: see `ChatAnswer`.
        sent_without: see `ChatAnswer`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    request: str
    text: str
    ending: Ending
    sent_without: tuple[str, ...] = ()


def save(directory: Path, answers: Mapping[str, ChatAnswer]) -> None:
    """Write all answers except failed ones, which are worth another attempt.

    Args:
        directory: where the log is; it is made if it is missing.
        answers: the answers by digest of their request.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        directory / FILE_NAME,
        (
            LoggedAnswer(
                request=digest,
                text=_encodable(answer.text),
                ending=answer.ending,
                sent_without=answer.sent_without,
            )
            for digest, answer in answers.items()
            if answer.ending != "failed"
        ),
    )


def load(directory: Path) -> tuple[dict[str, ChatAnswer], int]:
    """Return the saved answers by digest of their request, and the number of malformed lines."""
    answers: dict[str, ChatAnswer] = {}
    malformed = 0
    with (directory / FILE_NAME).open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = LoggedAnswer.model_validate_json(text)
            except ValidationError:
                malformed += 1
                continue
            answers[line.request] = ChatAnswer(
                line.text, line.ending, sent_without=line.sent_without
            )
    return answers, malformed


def _encodable(text: str) -> str:
    # A lone surrogate can't be written as UTF-8; the filters drop an answer with its replacement.
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
