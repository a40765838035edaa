"""Examples of given conversations: what they hold, how they are divided, what is left out."""

from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.api.persona import Dialogue, Turn
from persona_jobs.dataset import normalize_query
from persona_jobs.rewriting.given_examples import given_examples
from persona_jobs.rewriting.splitting import SPLITS

PERSONA = "You are Captain Flint."


def dialogue(*turns: tuple[str, str]) -> Dialogue:
    return Dialogue(turns=[Turn(query=query, answer=answer) for query, answer in turns])


def made(*dialogues, **settings):
    usual = {
        "persona": PERSONA,
        "excluded_questions": (),
        "special_tokens": ["<|end|>"],
        "count_tokens": lambda example: sum(len(m["content"]) for m in example.messages),
        "max_tokens": 1000,
        "validation_percent": 10,
        "test_percent": 10,
        "seed": 0,
    }
    return given_examples(dialogues, **{**usual, **settings})


def numbered(count: int) -> list[Dialogue]:
    return [dialogue((f"Question {n}?", f"Answer {n}.")) for n in range(count)]


def test_every_answer_is_learned_with_all_that_was_said_before_it():
    found = made(dialogue(("Ahoy", "Arr!"), (" And rum? ", "All gone.\n")))
    assert [example.messages for example in found.splits["train"]] == [
        [
            {"role": "system", "content": PERSONA},
            {"role": "user", "content": "Ahoy"},
            {"role": "assistant", "content": "Arr!"},
        ],
        [
            {"role": "system", "content": PERSONA},
            {"role": "user", "content": "Ahoy"},
            {"role": "assistant", "content": "Arr!"},
            {"role": "user", "content": "And rum?"},
            {"role": "assistant", "content": "All gone."},
        ],
    ]
    assert found.splits["test"] == found.splits["validation"] == []
    assert [example.query for example in found.splits["train"]] == ["Ahoy", "And rum?"]


def test_the_shares_are_those_of_the_data_set_and_one_of_two_is_held_out():
    counts = {
        n: [len(made(*numbered(n)).splits[name]) for name in SPLITS] for n in (0, 1, 2, 5, 20)
    }
    assert counts == {0: [0, 0, 0], 1: [1, 0, 0], 2: [1, 0, 1], 5: [4, 0, 1], 20: [16, 2, 2]}
    most = made(*numbered(4), validation_percent=40, test_percent=40)
    assert [len(most.splits[name]) for name in SPLITS] == [1, 1, 2]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=4), max_size=12),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_no_question_of_one_split_occurs_in_another(questions, validation, test):
    dialogues = [dialogue(*((f"{q}!", "Arr.") for q in asked)) for asked in questions]
    found = made(*dialogues, validation_percent=validation, test_percent=test)
    said = [
        {
            normalize_query(message["content"])
            for example in found.splits[name]
            for message in example.messages
            if message["role"] == "user"
        }
        for name in SPLITS
    ]
    assert sum(map(len, said)) == len(set.union(*said))
    assert found.count == sum(map(len, questions))
    assert bool(found.splits["train"]) == bool(questions)


def test_a_conversation_keeps_its_split_when_others_join():
    few, many = made(*numbered(10), test_percent=40), made(*numbered(30), test_percent=40)
    order = [e.query for name in ("test", "validation", "train") for e in few.splits[name]]
    later = [e.query for name in ("test", "validation", "train") for e in many.splits[name]]
    assert [query for query in later if query in order] == order


def test_what_can_not_be_learned_is_left_out_and_counted():
    found = made(
        dialogue(("Who are you", "A sailor.")),
        dialogue(("Ahoy", "Arr!<|end|>")),
        dialogue(("Sing.", "Yo ho! " * 200)),
        dialogue(("Rum?", "Gone.")),
        excluded_questions=["who are YOU?"],
    )
    assert found.left_out == {"inQuestionFiles": 1, "specialTokens": 1, "tooLong": 1}
    assert found.queries == ["Rum?"]
