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
