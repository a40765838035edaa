"""The questions that every variant answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from ..dataset import normalize_query


@dataclass(frozen=True)
class Question:
    """A question and where it is from.

    Attributes:
        query: the question.
        source: the held-out queries, or the URI of a question file.
    """

    query: str
    source: str


def choose(sources: Mapping[str, Sequence[str]], limit: int) -> list[Question]:
    """Return at most `limit` questions, taken from the sources in turn.

    Questions that differ only in case, punctuation or spacing count once.

    Args:
        sources: questions by the name of their source, in order.
        limit: largest number of questions.
    """
    columns = [[Question(query, name) for query in queries] for name, queries in sources.items()]
    seen: set[str] = set()
    chosen: list[Question] = []
    for question in chain.from_iterable(zip_longest(*columns)):
        if len(chosen) == limit:
            break
        if question is not None and (key := normalize_query(question.query)) not in seen:
            seen.add(key)
            chosen.append(question)
    return chosen


def fitting(
    questions: Sequence[Question],
    personas: Sequence[str],
    count_tokens: Callable[[str, str], int],
    max_tokens: int,
) -> list[Question]:
    """Return the questions whose prompt has at most `max_tokens` tokens under every persona.

    Args:
        questions: the questions.
        personas: system prompts, at least one.
        count_tokens: tokens of the prompt made of a system prompt and a question.
        max_tokens: longest prompt.
    """
    if not questions:
        return []
    longest = max(personas, key=lambda persona: count_tokens(persona, questions[0].query))
    return [q for q in questions if count_tokens(longest, q.query) <= max_tokens]
