import pytest

from persona_jobs.models import chat, prefix
from persona_jobs.rewriting.teacher import prompts
from support.tiny import tiny_tokenizer

PERSONA = "You are {Flint}, 100 % sailor. {query} {reference}"


def test_answer_is_the_conversation_that_is_learned_from() -> None:
    system, user = prompts.answer(PERSONA, "What is {x}?")
    assert (system["role"], system["content"]) == ("system", PERSONA)
    assert (user["role"], user["content"]) == ("user", "What is {x}?")


@pytest.mark.parametrize("rewrite", [prompts.rewrite, prompts.rewrite_by_hint])
def test_rewriting_names_everything_word_for_word(rewrite: object) -> None:
    messages = rewrite(PERSONA, "What is {query}?", "It is {persona} % {reference}.")  # type: ignore[operator]
    assert [m["role"] for m in messages] == ["system", "user"]
    assert messages[0]["content"].startswith(PERSONA)
    text = "\n".join(m["content"] for m in messages)
    assert "What is {query}?" in text
    assert "It is {persona} % {reference}." in text


def test_prompts_of_a_persona_share_it_as_prefix() -> None:
    tokenizer = tiny_tokenizer()
    rendered = [
        chat.render(tokenizer, prompts.rewrite_by_hint(PERSONA, query, reference))
        for query, reference in [("Why?", "Because."), ("How?", "So.")]
    ]
    shared, _ = prefix.split(rendered)
    assert PERSONA in tokenizer.decode(shared)
