"""Requests to the teacher, from the split queries."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..dataset import Message, ScoredQuery, Split, normalize_query
from ..endpoints import ChatRequest

Prompt = Callable[[str, str], tuple[Message, ...]]


@dataclass(frozen=True)
class WantedAnswer:
    """An answer that the data set needs.

    Attributes:
        split: the split that the example goes to.
        query: the query that it answers.
        request: the request to the teacher.
    """

    split: Split
    query: ScoredQuery
    request: ChatRequest


def wanted_answers(
    splits: Mapping[Split, Sequence[ScoredQuery]],
    prompt: Prompt,
    *,
    samples_per_query: int,
    seed: int,
) -> list[WantedAnswer]:
    """Return the answers to request: several per training query, one per held-out query.

    Args:
        splits: the queries by split.
        prompt: builds the teacher's chat messages from query and reference answer.
        samples_per_query: answers per training query, sampled with different seeds.
        seed: base of the requests' seeds.
    """
    wanted = []
    for split, queries in splits.items():
        for query in queries:
            messages = prompt(query.query, query.answer)
            for sample in range(samples_per_query if split == "train" else 1):
                own = request_seed(seed, query.query, sample)
                wanted.append(WantedAnswer(split, query, ChatRequest(messages, own)))
    return wanted


def request_seed(seed: int, query: str, sample: int) -> int:
    """Return a seed below 2**31 that depends on no other query."""
    text = f"{seed}:{sample}:{normalize_query(query)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def without_special_tokens(
    queries: Iterable[ScoredQuery], special_tokens: Sequence[str]
) -> list[ScoredQuery]:
    """Return the queries without special tokens in query and answer: one could end a turn."""
    return [
        query
        for query in queries
        if not any(token in query.query or token in query.answer for token in special_tokens)
    ]
