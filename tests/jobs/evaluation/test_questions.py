from persona_jobs.evaluation.questions import Question, choose, fitting


def test_sources_take_turns():
    chosen = choose({"a": ["a1", "a2", "a3"], "b": ["b1"], "c": ["c1", "c2"]}, 5)
    assert [q.query for q in chosen] == ["a1", "b1", "c1", "a2", "c2"]
    assert chosen[1] == Question("b1", "b")


def test_repeats_count_once():
    chosen = choose({"a": ["What is love?", "Why?"], "b": ["  what is LOVE ", "How?"]}, 10)
    assert [q.query for q in chosen] == ["What is love?", "Why?", "How?"]


def test_without_questions_nothing_is_chosen():
    assert choose({}, 3) == []
    assert choose({"a": []}, 3) == []


def test_questions_must_fit_under_the_longest_persona():
    questions = [Question("ab", "s"), Question("abcdef", "s")]

    def count(persona: str, query: str) -> int:
        return len(persona) + len(query)

    assert fitting(questions, ["x", "xxx"], count, 6) == questions[:1]
    assert fitting(questions, ["x", "xxx"], count, 9) == questions
    assert fitting([], ["x"], count, 9) == []
