from persona_jobs.evaluation.questions import Question, choose


def test_sources_take_turns():
    chosen = choose({"a": ["a1", "a2", "a3"], "b": ["b1"], "c": ["c1", "c2"]}, 5)
    assert [q.query for q in chosen] == ["a1", "b1", "c1", "a2", "c2"]
    assert chosen[1] == Question("b1", "b")


def test_repeats_count_once():
    chosen = choose({"a": ["What is love?", "Why?"], "b": ["  what is LOVE ", "How?"]}, 10)
    assert [q.query for q in chosen] == ["What is love?", "Why?", "How?"]


def test_nothing_to_choose_from():
    assert choose({}, 3) == []
    assert choose({"a": []}, 3) == []
