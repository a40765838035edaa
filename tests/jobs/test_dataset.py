import pytest

from persona_jobs.dataset import ScoredQuery, generic_split, normalize_query


def test_generic_training_holds_no_kept_query_evaluation_question_or_test_query() -> None:
    queries = [
        ScoredQuery(query=f"Question {i}?", answer="Yes.", score=0.5, rank=i + 1, kept=i < 2)
        for i in range(40)
    ]
    repeated = [
        q.model_copy(update={"query": f"question {i}", "kept": False})
        for i, q in enumerate(queries)
    ]
    parts = generic_split([*queries, *repeated], ["QUESTION 5", "Question 6!"])
    forms = {name: {normalize_query(e.query) for e in part} for name, part in parts.items()}
    learned = forms["train"] | forms["validation"]
    assert forms["train"] and forms["validation"] and forms["test"]
    assert not learned & {"question 0", "question 1", "question 5", "question 6"}
    assert not learned & forms["test"] and not forms["train"] & forms["validation"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C++?", "What is C#?"),
        ("What is C++?", "What is C?"),
        ("Calculate 12 + 4.", "Calculate 12 - 4."),
        ("Calculate 12 * 4.", "Calculate 12 / 4."),
        ("Is 5 > 3?", "Is 5 < 3?"),
        ("What does == do?", "What does = do?"),
        ("What is x²?", "What is x2?"),
        ("Is 5 % enough?", "Is 5 € enough?"),
        ("दिन क्या है?", "दान क्या है?"),
        ("ป่าคืออะไร", "ป้าคืออะไร"),
    ],
)
def test_queries_that_differ_in_a_sign_are_different(one: str, other: str) -> None:
    assert normalize_query(one) != normalize_query(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's the SEA?", " what’s the sea "),
        ("Cafe\u0301?", "café"),
        ("¿Qué es `x`?", "qué es x"),
        ("海是什么？", "海是什么。"),
        ("8 \u2212 3", "8 - 3"),
    ],
)
def test_queries_that_differ_in_case_and_punctuation_are_equal(one: str, other: str) -> None:
    assert normalize_query(one) == normalize_query(other)


def test_a_query_of_only_punctuation_keeps_it() -> None:
    assert normalize_query(" ?! ") == "?!"
