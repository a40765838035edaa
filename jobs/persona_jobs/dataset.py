"""Records that stages pass on as JSON lines: queries, personas, chat examples, loss curves."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from .errors import CorruptArtifactError

Split = Literal["train", "validation", "test"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Instruction(_Record):
    """A question or task with its neutral answer."""

    query: str
    answer: str


class ReferencePersona(_Record):
    """A persona's short name and its text."""

    name: str
    text: str


class ScoredQuery(Instruction):
    """A query with its persona sensitivity.

    Attributes:
        query: the question or task.
        answer: its neutral reference answer.
        score: s(q) of the paper, between 0 and 2.
        rank: 1 for the most persona-sensitive query.
        kept: whether it is in the kept share.
    """

    score: float
    rank: int
    kept: bool


class Message(TypedDict):
    """A chat message, in the form that tokenizers and OpenAI-compatible APIs take."""

    role: Literal["system", "user", "assistant"]
    content: str


class Example(_Record):
    """A conversation to learn from or to measure on: system (the persona), user, assistant.

    Attributes:
        messages: the chat messages; the last one is the answer, the others are what it answers.
        reference: the neutral answer that it is based on; may be empty.
        ends: whether the answer ends where its writer ended; False for the beginning of a longer
            answer, after which nothing teaches to end the turn.
    """

    messages: list[Message]
    reference: str = ""
    ends: bool = True

    @classmethod
    def of(
        cls,
        system: str | None,
        query: str,
        answer: str,
        reference: str = "",
        history: Sequence[Message] = (),
    ) -> "Example":
        """Build an example of one exchange, without a system message if `system` is None.

        Args:
            system: the persona's text.
            query: the user's message.
            answer: what is learned or measured.
            reference: the neutral answer that it is based on.
            history: what user and assistant said before.
        """
        head = [Message(role="system", content=system)] if system is not None else []
        return cls(
            messages=[
                *head,
                *history,
                Message(role="user", content=query),
                Message(role="assistant", content=answer),
            ],
            reference=reference,
        )

    @property
    def system(self) -> str | None:
        """Return the system message, if there is one."""
        return next((m["content"] for m in self.messages if m["role"] == "system"), None)

    @property
    def query(self) -> str:
        """Return the user's last message, which the answer follows."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")

    @property
    def history(self) -> list[Message]:
        """Return what user and assistant said before the query."""
        return [m for m in self.messages if m["role"] != "system"][:-2]

    @property
    def answer(self) -> str:
        """Return the assistant's message."""
        return self.messages[-1]["content"]


class CurvePoint(_Record):
    """Losses at one optimizer step of a training run, in nats per answer token.

    Attributes:
        step: finished optimizer steps; 0 is the start.
        train_loss: loss of the step's batch; None at the start.
        validation_loss: held-out loss, where it was measured.
        learning_rate: learning rate of the step; None at the start.
    """

    step: int
    train_loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None


class _Spaces(dict[int, str]):
    """A translation to spaces of what tells no two queries apart, filled as characters occur."""

    def __missing__(self, code: int) -> str:
        """Return what stands for the character in the normalized form."""
        char = chr(code)
        # Letters, marks, numbers and symbols: a vowel sign or a plus is another question.
        kept = unicodedata.category(char)[0] in "LMNS" or char in _TELLING
        self[code] = "-" if char in _HYPHENS else char if kept and char not in _IDLE else " "
        return self[code]


_TELLING = "#%&*/@\\"
_HYPHENS = "-\u2010\u2011\u2212"
_IDLE = "`´\u00a8\ufe0e\ufe0f"
_SPACES = _Spaces()


def normalize_query(query: str) -> str:
    """Return the form in which queries are compared: without case, punctuation and spacing.

    Signs that make another question stay: `+ # - * / < > =`, other symbols and combining marks.
    A query of only punctuation keeps it.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", query).casefold())
    return " ".join(text.translate(_SPACES).split()) or " ".join(text.split())


def generic_split(
    queries: Sequence[ScoredQuery], excluded_questions: Iterable[str] = ()
) -> dict[Split, list[Example]]:
    """Split the queries that were not kept into general examples without the persona.

    About 70 % train, 10 % validation and 20 % test, in the order of a hash of the query; every
    split gets at least one if there are three. Train and validation then lose every query whose
    normalized form is kept, excluded or in the test split.

    Args:
        queries: all scored queries.
        excluded_questions: questions that the evaluation asks.
    """
    generic = sorted(
        (q for q in queries if not q.kept), key=lambda q: _digest(normalize_query(q.query))
    )
    validation = max(1, len(generic) // 10)
    test = max(1, len(generic) // 5)
    seen = {normalize_query(q.query) for q in queries if q.kept}
    seen |= {normalize_query(question) for question in excluded_questions}

    def unseen(part: Sequence[ScoredQuery]) -> list[Example]:
        chosen = [q for q in part if normalize_query(q.query) not in seen]
        seen.update(normalize_query(q.query) for q in part)
        return [Example.of(None, q.query, q.answer, q.answer) for q in chosen]

    held_out = [Example.of(None, q.query, q.answer, q.answer) for q in generic[:test]]
    seen |= {normalize_query(example.query) for example in held_out}
    return {
        "test": held_out,
        "validation": unseen(generic[test : test + validation]),
        "train": unseen(generic[test + validation :]),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


Line = TypeVar("Line", bound=BaseModel)


def write_jsonl(path: Path, lines: Iterable[BaseModel]) -> None:
    """Write one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line.model_dump(mode="json"), ensure_ascii=False) + "\n")


def read_jsonl(path: Path, kind: type[Line]) -> list[Line]:
    """Read what `write_jsonl` wrote.

    Raises:
        CorruptArtifactError: a line is not such an object; the message names file and line.
    """
    lines: list[Line] = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                lines.append(kind.model_validate_json(text))
            except ValidationError:
                raise CorruptArtifactError(
                    f"Line {number} of {path.name} is not a valid {kind.__name__}",
                    hint="Delete the stage's folder in the store and run again",
                    subject=str(path),
                ) from None
    return lines
