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
        sample: number of the answer to this question, from 0.
        answers: text by variant.
        scores: voice x relevance x fluency x originality, 0 to 1, by variant.
        voice: probability, 0 to 1, that the target persona gave the answer, by variant.
        relevance: probability, 0 to 1, that it answers this question and no other, by variant.
        fluency: how usual its loss is among the dense model's answers, 0 to 1, by variant.
        originality: share of its tokens that are neither copied nor repeated, by variant.
        losses: the answer's loss under the dense model with the persona's prompt, in nats per
            token, by variant; None for an empty answer.
        finished: whether the answer ended before the length limit, by variant.
    """

    query: str
    source: str
    sample: int = 0
    answers: dict[Variant, str]
    scores: dict[Variant, float]
    voice: dict[Variant, float]
    relevance: dict[Variant, float]
    fluency: dict[Variant, float]
    originality: dict[Variant, float]
    losses: dict[Variant, float | None]
    finished: dict[Variant, bool]

    def figures(self, name: Variant) -> ScoredAnswer:
        """Return the figures of one variant's answer."""
        return ScoredAnswer(
            voice=self.voice[name],
            relevance=self.relevance[name],
            fluency=self.fluency[name],
            originality=self.originality[name],
            loss=self.losses[name],
        )


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
    """Return one line per question and answer, the first answers to all questions first.

    Args:
        questions: the questions.
        answers: the variants' answers to the questions, once or several times in this order.
        scored: the figures of the answers.
    """
    count = len(next(iter(answers.values()), ()))

    def figures(name: str, index: int) -> dict[Variant, float]:
        return {key: round(getattr(row[index], name), 6) for key, row in scored.items()}

    return [
        SampleLine(
            query=questions[index % len(questions)].query,
            source=questions[index % len(questions)].source,
            sample=index // len(questions),
            answers={name: row[index].text for name, row in answers.items()},
            scores=figures("score", index),
            voice=figures("voice", index),
            relevance=figures("relevance", index),
            fluency=figures("fluency", index),
            originality=figures("originality", index),
            losses={name: rounded(row[index].loss) for name, row in scored.items()},
            finished={name: row[index].finished for name, row in answers.items()},
        )
        for index in range(count)
    ]
