"""The questions that every variant answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from ..dataset import normalize_query


@dataclass(frozen=True)
class Question:
    """A question and where it is from.

    Attributes:
        query: the question.
        source: `held-out queries`, or the URI of a question file.
    """

    query: str
    source: str


def choose(sources: Mapping[str, Sequence[str]], limit: int) -> list[Question]:
    """At most `limit` questions, taken from the sources in turn, so that each is represented.

    Questions that differ only in case, punctuation or spacing count once.

    Args:
        sources: questions by the name of their source, in order.
        limit: the most questions to choose.
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
