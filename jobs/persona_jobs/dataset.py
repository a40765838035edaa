"""Files that stages pass on: scored queries and chat examples, one JSON object a line."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import CorruptArtifactError

Split = Literal["train", "validation", "test"]


class ScoredQuery(BaseModel):
    """A query with its persona sensitivity.

    Attributes:
        query: the question or task.
        answer: its neutral reference answer.
        score: s(q) of the paper, between 0 and 2.
        rank: 1 for the most persona-sensitive query.
        kept: whether it is among the kept share.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    query: str
    answer: str
    score: float
    rank: int
    kept: bool


class Message(BaseModel):
    """A chat message."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Example(BaseModel):
    """A conversation to learn from or to measure on: system (the persona), user, assistant.

    Attributes:
        messages: the chat messages; the last one is the answer.
        reference: the neutral answer it was made from; may be empty.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: list[Message]
    reference: str = ""

    @classmethod
    def of(cls, system: str | None, query: str, answer: str, reference: str = "") -> "Example":
        """An example of one exchange; `system` None leaves the system message out."""
        head = [Message(role="system", content=system)] if system is not None else []
        return cls(
            messages=[
                *head,
                Message(role="user", content=query),
                Message(role="assistant", content=answer),
            ],
            reference=reference,
        )

    @property
    def system(self) -> str | None:
        """The system message, if there is one."""
        return next((m.content for m in self.messages if m.role == "system"), None)

    @property
    def query(self) -> str:
        """The user's message."""
        return next(m.content for m in self.messages if m.role == "user")

    @property
    def answer(self) -> str:
        """The assistant's message."""
        return self.messages[-1].content


def normalize_query(query: str) -> str:
    """Form in which two queries count as the same: case, punctuation and spacing ignored.

    A query of punctuation and symbols only keeps them.
    """
    text = unicodedata.normalize("NFKC", query).casefold()
    return re.sub(r"[\W_]+", " ", text).strip() or " ".join(text.split())


def generic_split(queries: Sequence[ScoredQuery]) -> dict[Split, list[Example]]:
    """General examples without the persona, from the queries that were not kept.

    About 70 % train, 10 % validation and 20 % test, in the order of a hash of the query; every
    split gets one as long as three are left over.
    """
    rest = sorted(
        (q for q in queries if not q.kept), key=lambda q: _digest(normalize_query(q.query))
    )
    validation = max(1, len(rest) // 10)
    test = max(1, len(rest) // 5)
    examples = [Example.of(None, q.query, q.answer, q.answer) for q in rest]
    return {
        "test": examples[:test],
        "validation": examples[test : test + validation],
        "train": examples[test + validation :],
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


Line = TypeVar("Line", bound=BaseModel)


def write_jsonl(path: Path, lines: Iterable[BaseModel]) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line.model_dump(mode="json"), ensure_ascii=False) + "\n")


def read_jsonl(path: Path, kind: type[Line]) -> list[Line]:
    """Read what `write_jsonl` wrote.

    Raises:
        CorruptArtifactError: a line is no such object; names file and line.
    """
    lines: list[Line] = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                lines.append(kind.model_validate_json(text))
            except ValidationError:
                raise CorruptArtifactError(
                    f"line {number} of {path.name} is no {kind.__name__}",
                    hint="Delete the stage's folder in the store and run again",
                    subject=str(path),
                ) from None
    return lines
