"""Train, validation and test queries, disjoint by normalized query."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from ..dataset import Example, ScoredQuery, Split, normalize_query
from ..errors import InputError

MIN_TRAIN = 4
MIN_HELD_OUT = 1
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def eligible(
    queries: Iterable[ScoredQuery], excluded_questions: Iterable[str]
) -> list[ScoredQuery]:
    """Return the kept queries, each once, without the questions of evaluation files.

    Args:
        queries: scored queries in any order.
        excluded_questions: questions of evaluation files.
    """
    seen = {normalize_query(question) for question in excluded_questions}
    chosen = []
    for query in sorted((q for q in queries if q.kept), key=lambda q: q.rank):
        form = normalize_query(query.query)
        if form not in seen:
            seen.add(form)
            chosen.append(query)
    return chosen


def split(
    queries: Sequence[ScoredQuery], *, validation_percent: int, test_percent: int, seed: int
) -> dict[Split, list[ScoredQuery]]:
    """Divide the queries by a hash of seed and query, so that no query's place depends on another.

    Raises:
        InputError: too few queries for `MIN_TRAIN` and one held-out query each.
    """
    ordered = sorted(queries, key=lambda q: query_order(seed, q.query))
    validation = max(MIN_HELD_OUT, round(len(ordered) * validation_percent / 100))
    test = max(MIN_HELD_OUT, round(len(ordered) * test_percent / 100))
    if len(ordered) < MIN_TRAIN + 2 * MIN_HELD_OUT:
        raise _too_few(f"Only {len(ordered)} queries are left to write answers for")
    while len(ordered) - validation - test < MIN_TRAIN:
        if validation > test:
            validation -= 1
        else:
            test -= 1
    return {
        "test": ordered[:test],
        "validation": ordered[test : test + validation],
        "train": ordered[test + validation :],
    }


def refill(splits: Mapping[Split, Sequence[Example]]) -> dict[Split, list[Example]]:
    """Move a training query into a held-out split that the filters left empty.

    All answers of that query leave the training data; the first of them is held out.

    Raises:
        InputError: fewer than `MIN_TRAIN` answers would be left to train on.
    """
    filled = {name: list(splits[name]) for name in SPLITS}
    for name in ("validation", "test"):
        if filled[name] or not filled["train"]:
            continue
        moved = normalize_query(filled["train"][-1].query)
        same = [e for e in filled["train"] if normalize_query(e.query) == moved]
        filled["train"] = [e for e in filled["train"] if normalize_query(e.query) != moved]
        filled[name] = same[:1]
    counts = ", ".join(f"{len(filled[name])} for {name}" for name in SPLITS)
    if len(filled["train"]) < MIN_TRAIN or not filled["validation"] or not filled["test"]:
        raise _too_few(f"There are too few usable answers: {counts}")
    return filled


def _too_few(what: str) -> InputError:
    return InputError(
        f"{what}; at least {MIN_TRAIN} for training and one each for validation and test are "
        "required",
        hint="Add instructions, or raise spec.instructions.maxSamples or spec.scoring.keepPercent "
        "where they leave some out",
        subject="spec.instructions",
    )


def query_order(seed: int, query: str) -> str:
    """Return what queries are sorted by before they are divided: a hash of seed and query."""
    text = f"{seed}:{normalize_query(query)}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
