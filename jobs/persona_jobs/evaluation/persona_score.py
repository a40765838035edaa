"""Persona score: how well a model's answers play the persona, by the dense model's probabilities.

Four figures from 0 to 1 for an answer a to a question q, under the target persona's prompt P:

- Voice: the posterior of the target among target and reference personas P_j,
  p(a | P, q) / sum_j p(a | P_j, q), with a uniform prior, in segments of about 16 tokens, as the
  mean over the segments.
- Relevance: the posterior of q among q and a few other questions of the set,
  p(a | P, q) / sum_i p(a | P, q_i).
- Fluency: 1 while the answer's loss under P and q lies within two standard deviations of the mean
  loss of the dense model's own answers, and a Gaussian of the excess on either side: babble is too
  surprising, a stuck phrase too predictable.
- Originality: the share of the answer's tokens that count. Tokens in n-grams of four or more that
  are copied from the persona's text or repeated count neither here nor in voice and relevance.

An answer's score is the product of the four. The dense model's own answers are the ceiling in
practice, so scores are read beside the dense model's. Fluent and relevant answers that ignore the
persona have a voice of about 1 / (r + 1) with r reference personas.

Token cost of D different answers of t tokens to Q questions of q tokens, r + 1 personas of p
tokens and m other questions: (r + 1) (p + Q q + D t) + p + Q q + m D t tokens through the dense
model, and the language-model head on answers' tokens only. 8 questions, 3 variants, 10 references,
t = 48, q = 25, p = 80: 16,000 tokens for the personas and 7,000 for the questions.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from .answer_likelihoods import Continuations, answer_loglikelihoods
from .answer_segments import counted_tokens, segment_sums, segments

OTHER_QUESTIONS = 6
# Losses within so many standard deviations of the dense model's own have full fluency.
USUAL_DEVIATIONS = 2.0
# Nats per token: few answers of the dense model may have nearly equal losses by accident.
LEAST_DEVIATION = 0.1

Prompt = Callable[[str, str], list[int]]
"""Renders a system prompt and a query as the token ids before the answer."""


@dataclass(frozen=True)
class GivenAnswer:
    """A question and the answer that a model gave.

    Attributes:
        query: the question.
        ids: the answer's token ids, including the end-of-turn token if the model generated it.
        empty: whether the answer has no text.
    """

    query: str
    ids: tuple[int, ...]
    empty: bool = False


@dataclass(frozen=True)
class ScoredAnswer:
    """The dense model's figures of an answer, each from 0 to 1.

    Attributes:
        voice: posterior of the target among the personas, the mean over the segments.
        relevance: posterior of the answer's own question among the others.
        fluency: how usual the answer's loss is among those of the dense model's answers.
        originality: share of the answer's tokens that are neither copied nor repeated.
        loss: -log p(answer | target, question), in nats per token; None for an empty answer.
    """

    voice: float
    relevance: float
    fluency: float
    originality: float
    loss: float | None = None

    @property
    def score(self) -> float:
        """Product of the four figures."""
        return self.voice * self.relevance * self.fluency * self.originality


NOTHING = ScoredAnswer(0.0, 0.0, 0.0, 0.0)
"""What an empty answer has."""


@dataclass(frozen=True)
class Likelihoods:
    """Log-likelihoods of the distinct answers, in nats.

    Attributes:
        by_persona: by number of the persona (0 is the target), for each answer the sum in each
            segment (`answer_segments.segment_sums`).
        other_questions: for each answer, the sum over its counted tokens under each of the other
            questions.
    """

    by_persona: dict[int, list[list[float]]] = field(default_factory=dict)
    other_questions: list[list[float]] = field(default_factory=list)


def _ignore(_: int) -> None:
    pass


def chance_level(references: int) -> float:
    """Return the persona score, 0 to 100, of usual answers that ignore the persona."""
    return 100 / (references + 1)


def distinct_answers(answers: Iterable[GivenAnswer]) -> list[GivenAnswer]:
    """Return each nonempty answer once."""
    return list(dict.fromkeys(answer for answer in answers if answer.ids and not answer.empty))


def passes(answers: Sequence[GivenAnswer], personas: int) -> int:
    """Return how often the dense model reads an answer to score all of them."""
    others = other_questions([answer.query for answer in answers])
    return sum(personas + len(others[answer.query]) for answer in distinct_answers(answers))


def other_questions(queries: Iterable[str]) -> dict[str, list[str]]:
    """Return for each question the ones that follow it in the set, at most six, in turn."""
    distinct = list(dict.fromkeys(queries))
    count = min(OTHER_QUESTIONS, len(distinct) - 1)
    twice = distinct * 2
    return {query: twice[n + 1 : n + 1 + count] for n, query in enumerate(distinct)}


def score_answers(
    dense: nn.Module,
    prompt: Prompt,
    personas: Sequence[str],
    answers: Sequence[GivenAnswer],
    usual: Sequence[GivenAnswer],
    *,
    sources: Sequence[Sequence[int]] = (),
    finished: Likelihoods | None = None,
    on_part: Callable[[], None] = lambda: None,
    on_rows: Callable[[int], None] = _ignore,
) -> list[ScoredAnswer]:
    """Return the figures of every answer; those of an empty one are 0.

    Args:
        dense: the model that gives the probabilities.
        prompt: renders a system prompt and a question.
        personas: the target's system prompt, then those of the reference personas.
        answers: questions and answers, which may repeat.
        usual: those of the answers that are the dense model's own, whose losses are usual.
        sources: texts that an answer must not copy, as token ids.
        finished: what an earlier call found for the same answers; the rest is added.
        on_part: called after each persona, and after the other questions.
        on_rows: called with the number of answers read after one prompt, after each batch.
    """
    distinct = distinct_answers(answers)
    if not distinct:
        return [NOTHING] * len(answers)
    counted = [counted_tokens(answer.ids, sources) for answer in distinct]
    numbers = [segments(row) for row in counted]
    known = Likelihoods() if finished is None else finished
    for number, persona in enumerate(personas):
        if number not in known.by_persona:
            asked = [(answer.query, answer) for answer in distinct]
            tokens = _by_question(dense, prompt, persona, asked, on_rows)
            known.by_persona[number] = [
                segment_sums(values, row) for values, row in zip(tokens, numbers, strict=True)
            ]
            on_part()
    others = other_questions(answer.query for answer in answers)
    if not known.other_questions:
        asked = [(query, answer) for answer in distinct for query in others[answer.query]]
        rows = iter(_by_question(dense, prompt, personas[0], asked, on_rows))
        for answer, row in zip(distinct, numbers, strict=True):
            sums = [segment_sums(next(rows), row) for _ in others[answer.query]]
            known.other_questions.append([sum(values[1:]) for values in sums])
        on_part()
    losses = [
        -sum(sums) / len(answer.ids)
        for sums, answer in zip(known.by_persona[0], distinct, strict=True)
    ]
    loss_of = dict(zip(distinct, losses, strict=True))
    fluencies = fluency(losses, [loss_of[answer] for answer in usual if answer in loss_of])
    scored: Mapping[GivenAnswer, ScoredAnswer] = {
        answer: ScoredAnswer(
            voice=voice([known.by_persona[number][n] for number in range(len(personas))]),
            relevance=posterior([sum(known.by_persona[0][n][1:]), *known.other_questions[n]]),
            fluency=fluencies[n],
            originality=sum(counted[n]) / len(counted[n]),
            loss=losses[n],
        )
        for n, answer in enumerate(distinct)
    }
    return [scored.get(answer, NOTHING) for answer in answers]


def question_scores(answers: Sequence[ScoredAnswer], questions: int) -> list[float]:
    """Return the score of each question, 0 to 100: the mean over its answers.

    Args:
        answers: answers to the questions, once or several times in the questions' order.
        questions: number of questions.
    """
    return [
        100 * statistics.fmean(answer.score for answer in answers[number::questions])
        for number in range(questions)
    ]


def mean_figures(answers: Sequence[ScoredAnswer]) -> ScoredAnswer:
    """Return the mean of each figure; that of the losses is over the answers that have one."""
    losses = [answer.loss for answer in answers if answer.loss is not None]
    return ScoredAnswer(
        voice=statistics.fmean(answer.voice for answer in answers),
        relevance=statistics.fmean(answer.relevance for answer in answers),
        fluency=statistics.fmean(answer.fluency for answer in answers),
        originality=statistics.fmean(answer.originality for answer in answers),
        loss=statistics.fmean(losses) if losses else None,
    )


def voice(sums: Sequence[Sequence[float]]) -> float:
    """Return the mean over the segments of the first persona's posterior.

    Args:
        sums: log-likelihoods by persona and segment; the first segment does not count.
    """
    columns = list(zip(*sums, strict=True))[1:]
    if not columns:
        return 1 / len(sums)
    return sum(posterior(column) for column in columns) / len(columns)


def posterior(loglikelihoods: Sequence[float]) -> float:
    """Return the posterior of the first of several hypotheses, with a uniform prior."""
    largest = max(loglikelihoods)
    weights = [math.exp(value - largest) for value in loglikelihoods]
    return weights[0] / sum(weights)


def fluency(losses: Sequence[float], usual: Sequence[float]) -> list[float]:
    """Return how usual each loss is, 0 to 1.

    Args:
        losses: the answers' losses, in nats per token.
        usual: losses of the dense model's own answers; without any, every loss is usual.
    """
    if not usual:
        return [1.0] * len(losses)
    mean = statistics.fmean(usual)
    deviation = max(LEAST_DEVIATION, statistics.stdev(usual) if len(usual) > 1 else 0.0)
    excess = [max(0.0, abs(loss - mean) / deviation - USUAL_DEVIATIONS) for loss in losses]
    return [math.exp(-(value**2) / 2) for value in excess]


def _by_question(
    dense: nn.Module,
    prompt: Prompt,
    persona: str,
    asked: Sequence[tuple[str, GivenAnswer]],
    on_rows: Callable[[int], None],
) -> list[list[float]]:
    """Return the log-likelihoods of the tokens of each answer after the question beside it."""
    rows: dict[str, list[int]] = {}
    for index, (query, _) in enumerate(asked):
        rows.setdefault(query, []).append(index)
    groups = [
        Continuations(prompt(persona, query), [asked[index][1].ids for index in indices])
        for query, indices in rows.items()
    ]
    found: list[list[float]] = [[] for _ in asked]
    by_group = answer_loglikelihoods(dense, groups, on_rows=on_rows)
    for indices, tokens in zip(rows.values(), by_group, strict=True):
        for index, values in zip(indices, tokens, strict=True):
            found[index] = values.tolist()
    return found
