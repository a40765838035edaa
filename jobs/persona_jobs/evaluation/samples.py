"""The variants' answers with their scores, as written to samples.jsonl and shown.jsonl."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from ..models.generation import Generated
from ..pipeline.results import ShownAnswers, Variant
from .measurements import rounded
from .persona_score import GivenAnswer, ScoredAnswer
from .questions import Question


class SampleLine(BaseModel):
    """One line of `samples.jsonl`; the masked model's answers are the sliced one's.

    Attributes:
        query: the question.
        source: the held-out queries, or a question file's URI.
        answers: text by variant.
        posteriors: probability, 0 to 1, that the target persona gave the answer, by variant.
        losses: the answer's loss under the dense model with the persona's prompt, in nats per
            token, by variant; None for an empty answer.
        finished: whether the answer ended before the length limit, by variant.
    """

    query: str
    source: str
    answers: dict[Variant, str]
    posteriors: dict[Variant, float]
    losses: dict[Variant, float | None]
    finished: dict[Variant, bool]


def shown_lines(
    queries: Sequence[str], answers: Mapping[Variant, Sequence[Generated]]
) -> list[ShownAnswers]:
    """Return one line per question, from the variants' answers in the questions' order."""
    return [
        ShownAnswers(query=query, answers={name: row[index].text for name, row in answers.items()})
        for index, query in enumerate(queries)
    ]


def given_answer(query: str, answer: Generated, end_of_turn: int | None) -> GivenAnswer:
    """Return the answer with the token that ended it, which the model generated as well."""
    ids = tuple(answer.ids)
    if answer.finished and end_of_turn is not None:
        ids = (*ids, end_of_turn)
    return GivenAnswer(query, ids, empty=not answer.text.strip())


def sample_lines(
    questions: Sequence[Question],
    answers: Mapping[Variant, Sequence[Generated]],
    scored: Mapping[Variant, Sequence[ScoredAnswer]],
) -> list[SampleLine]:
    """Return one line per question, from the variants' answers in the questions' order."""
    return [
        SampleLine(
            query=question.query,
            source=question.source,
            answers={name: row[index].text for name, row in answers.items()},
            posteriors={name: round(row[index].posterior, 6) for name, row in scored.items()},
            losses={name: rounded(row[index].loss) for name, row in scored.items()},
            finished={name: row[index].finished for name, row in answers.items()},
        )
        for index, question in enumerate(questions)
    ]
