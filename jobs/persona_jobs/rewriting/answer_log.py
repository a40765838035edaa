"""The answers written so far, as a file from which a later start resumes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..dataset import read_jsonl, write_jsonl
from .teacher.base import Ending, TeacherAnswer, TeacherRequest

FILE_NAME = "answers.jsonl"


class LoggedAnswer(BaseModel):
    """One line.

    Attributes:
        request: digest of the request.
        text: the answer as it came.
        ending: see `TeacherAnswer`.
        sent_without: see `TeacherAnswer`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    request: str
    text: str
    ending: Ending
    sent_without: tuple[str, ...] = ()


def save(
    directory: Path, requests: Sequence[TeacherRequest], answers: Mapping[int, TeacherAnswer]
) -> None:
    """Write all answers except failed ones, which are worth another attempt."""
    directory.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        directory / FILE_NAME,
        (
            LoggedAnswer(
                request=requests[index].digest,
                text=_encodable(answer.text),
                ending=answer.ending,
                sent_without=answer.sent_without,
            )
            for index, answer in sorted(answers.items())
            if answer.ending != "failed"
        ),
    )


def load(directory: Path, requests: Sequence[TeacherRequest]) -> dict[int, TeacherAnswer]:
    """Return the saved answers by index in `requests`; those to other requests are left out.

    Raises:
        CorruptArtifactError: a line is malformed.
    """
    index_of = {request.digest: index for index, request in enumerate(requests)}
    return {
        index_of[line.request]: TeacherAnswer(
            line.text, line.ending, sent_without=line.sent_without
        )
        for line in read_jsonl(directory / FILE_NAME, LoggedAnswer)
        if line.request in index_of
    }


def _encodable(text: str) -> str:
    # A lone surrogate can't be written as UTF-8; the filters drop an answer with its replacement.
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
