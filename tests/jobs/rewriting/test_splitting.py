import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_jobs.dataset import Example, ScoredQuery, Split, normalize_query
from persona_jobs.errors import InputError
from persona_jobs.rewriting.splitting import eligible, refill, split


def query(text: str, rank: int = 1, *, kept: bool = True) -> ScoredQuery:
    return ScoredQuery(query=text, answer=f"About {text}", score=0.1, rank=rank, kept=kept)


def queries(count: int) -> list[ScoredQuery]:
    return [query(f"Question number {index}?", index + 1) for index in range(count)]


def examples(**counts: int) -> dict[Split, list[Example]]:
    names: tuple[Split, ...] = ("train", "validation", "test")
    return {
        name: [Example.of("P", f"{name} {i}", f"answer {i}") for i in range(counts.get(name, 0))]
        for name in names
    }


def test_eligible_are_kept_unique_and_not_in_evaluation_files() -> None:
    scored = [
        query("Why is THE sky blue", 3),
        query("Why is the sky blue?", 1),
        query("What is rum?", 2),
        query("Who are you?", 4),
        query("How far is the moon?", 5, kept=False),
    ]
    chosen = eligible(scored, ["who are  you", "What is tea?"])
    assert [q.query for q in chosen] == ["Why is the sky blue?", "What is rum?"]


@given(
    count=st.integers(6, 300),
    validation=st.integers(1, 50),
    test=st.integers(1, 50),
    seed=st.integers(0, 2**31 - 1),
)
def test_splits_are_disjoint_whole_and_never_empty(
    count: int, validation: int, test: int, seed: int
) -> None:
    test = min(test, 80 - validation)
    splits = split(queries(count), validation_percent=validation, test_percent=test, seed=seed)
    forms = {name: {normalize_query(q.query) for q in part} for name, part in splits.items()}
    assert sum(len(part) for part in splits.values()) == count
    assert len(set.union(*forms.values())) == count
    assert len(forms["train"]) >= 4
    assert forms["validation"]
    assert forms["test"]


def test_shares() -> None:
    splits = split(queries(200), validation_percent=10, test_percent=20, seed=0)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 140,
        "validation": 20,
        "test": 40,
    }


def test_splits_depend_on_the_seed_and_not_on_the_order() -> None:
    one = split(queries(50), validation_percent=10, test_percent=10, seed=0)
    assert split(queries(50)[::-1], validation_percent=10, test_percent=10, seed=0) == one
    assert split(queries(50), validation_percent=10, test_percent=10, seed=1) != one


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_queries(count: int) -> None:
    with pytest.raises(InputError) as raised:
        split(queries(count), validation_percent=10, test_percent=10, seed=0)
    assert "spec.instructions.maxSamples" in str(raised.value)
    assert "spec.scoring.keepPercent" in str(raised.value)


def test_refill_leaves_full_splits_alone() -> None:
    splits = examples(train=9, validation=1, test=2)
    assert refill(splits) == splits


def test_refill_moves_a_whole_query_out_of_training() -> None:
    splits = examples(train=6, test=1)
    splits["train"] += [Example.of("P", "TRAIN 5!", "another answer to the last query")]
    filled = refill(splits)
    assert [e.query for e in filled["validation"]] == ["train 5"]
    assert [e.query for e in filled["train"]] == [f"train {i}" for i in range(5)]
    assert filled["test"] == splits["test"]


@pytest.mark.parametrize(
    "splits", [examples(), examples(train=3, validation=9, test=9), examples(train=4, test=1)]
)
def test_too_few_usable_answers(splits: dict[Split, list[Example]]) -> None:
    with pytest.raises(InputError, match="too few usable answers"):
        refill(splits)
