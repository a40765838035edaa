import pytest

from persona_jobs.dataset import Message
from persona_jobs.endpoints import ChatAnswer, ChatRequest
from persona_jobs.models import chat
from persona_jobs.models.generation import generate
from persona_jobs.rewriting.teacher.base_model import BaseModelTeacher
from support.tiny import tiny_model, tiny_tokenizer

COUNT = 9


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona_jobs.rewriting.teacher.base_model.GROUP_SIZE", 4)


@pytest.fixture(scope="module")
def model() -> object:
    return tiny_model(layers=2)


def requests(count: int = COUNT) -> list[ChatRequest]:
    return [
        ChatRequest(
            (
                Message(role="system", content="You are Flint."),
                Message(role="user", content="Why" + " so" * (index % 4) + f"? {index}"),
            ),
            seed=1000 + index,
        )
        for index in range(count)
    ]


def teacher(model: object, **settings: object) -> BaseModelTeacher:
    values: dict[str, object] = {"temperature": 1.0, "max_tokens": 10}
    return BaseModelTeacher(model, tiny_tokenizer(), **{**values, **settings})  # type: ignore[arg-type]


def ask(
    asked: BaseModelTeacher,
    wanted: list[ChatRequest],
    answered: frozenset[int] = frozenset(),
    stop_after: int | None = None,
) -> dict[int, ChatAnswer]:
    answers: dict[int, ChatAnswer] = {}
    reported = 0

    def on_answer() -> None:
        nonlocal reported
        reported += 1

    for some in asked.answer(
        wanted,
        answered=answered,
        should_stop=lambda: stop_after is not None and reported >= stop_after,
        on_answer=on_answer,
    ):
        answers.update(some)
    if stop_after is None:
        assert reported == len(answers)
    return answers


def test_answers_are_reproducible(model: object) -> None:
    first = ask(teacher(model), requests())
    assert sorted(first) == list(range(COUNT))
    assert len({answer.text for answer in first.values()}) == COUNT
    assert ask(teacher(model), requests()) == first


def test_answer_is_what_the_model_generates(model: object) -> None:
    tokenizer = tiny_tokenizer()
    ids = chat.render(
        tokenizer,
        [{"role": "system", "content": "You are Flint."}, {"role": "user", "content": "Why? 0"}],
    )
    alone = generate(model, tokenizer, [ids], max_new_tokens=10, temperature=1.0, row_ids=[1000])[0]
    answer = ask(teacher(model), requests())[0]
    assert answer.text == alone.text
    assert answer.ending == ("complete" if alone.finished else "truncated")


def test_answer_depends_on_its_seed(model: object) -> None:
    wanted = requests(1)
    other = [ChatRequest(wanted[0].messages, seed=5)]
    assert ask(teacher(model), wanted) != ask(teacher(model), other)


def test_temperature_zero_ignores_the_seed(model: object) -> None:
    wanted = requests(1)
    other = [ChatRequest(wanted[0].messages, seed=5)]
    greedy = teacher(model, temperature=0.0)
    assert ask(greedy, wanted) == ask(greedy, other)


def test_token_limit_truncates(model: object) -> None:
    answers = ask(teacher(model, max_tokens=1, temperature=0.0), requests())
    assert {answer.ending for answer in answers.values()} == {"truncated"}


@pytest.mark.parametrize("stop_after", [1, 5, 8])
def test_resuming_after_a_stop_gives_the_same_answers(model: object, stop_after: int) -> None:
    whole = ask(teacher(model), requests())
    first = ask(teacher(model), requests(), stop_after=stop_after)
    assert len(first) < COUNT
    resumed = ask(teacher(model), requests(), answered=frozenset(first))
    assert not set(first) & set(resumed)
    assert {**first, **resumed} == whole


def test_answered_requests_are_skipped(model: object) -> None:
    whole = ask(teacher(model), requests())
    new = ask(teacher(model), requests(), answered=frozenset({0, 3, 7}))
    assert new == {index: whole[index] for index in whole if index not in {0, 3, 7}}


def test_stop_before_the_start(model: object) -> None:
    assert ask(teacher(model), requests(), stop_after=0) == {}


def test_prompt_that_does_not_fit_the_context(model: object) -> None:
    wanted = requests(3)
    wanted.append(ChatRequest((Message(role="user", content="x" * 3000),), seed=1))
    answers = ask(teacher(model), wanted)
    assert answers[3] == ChatAnswer("", "tooLong")
    assert {index: answers[index] for index in range(3)} == ask(teacher(model), requests(3))
