"""From split queries to the requests that the teacher gets."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..dataset import Message, ScoredQuery, Split, normalize_query
from .teacher.base import TeacherRequest

Prompt = Callable[[str, str], tuple[Message, ...]]


@dataclass(frozen=True)
class WantedAnswer:
    """An answer that the data set needs.

    Attributes:
        split: where it goes.
        query: what it answers.
        request: what the teacher is asked.
    """

    split: Split
    query: ScoredQuery
    request: TeacherRequest


def wanted_answers(
    splits: Mapping[Split, Sequence[ScoredQuery]],
    prompt: Prompt,
    *,
    samples_per_query: int,
    seed: int,
) -> list[WantedAnswer]:
    """The answers to ask for: several to a training query, one to each other.

    Args:
        splits: the queries by split.
        prompt: chat messages for the teacher, from query and reference answer.
        samples_per_query: answers to each training query, drawn with different seeds.
        seed: base of the requests' seeds.
    """
    wanted = []
    for split, queries in splits.items():
        for query in queries:
            messages = prompt(query.query, query.answer)
            for sample in range(samples_per_query if split == "train" else 1):
                own = request_seed(seed, query.query, sample)
                wanted.append(WantedAnswer(split, query, TeacherRequest(messages, own)))
    return wanted


def request_seed(seed: int, query: str, sample: int) -> int:
    """A seed below 2**31 that depends on the query and no other."""
    text = f"{seed}:{sample}:{normalize_query(query)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def without_special_tokens(
    queries: Iterable[ScoredQuery], special_tokens: Sequence[str]
) -> list[ScoredQuery]:
    """The queries that hold no special token, which would end the user's turn or open another."""
    return [query for query in queries if not any(token in query.query for token in special_tokens)]
