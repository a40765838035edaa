import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.errors import InputError
from persona_jobs.models import chat
from support.templates import IGNORES, REFUSES, THINKING
from support.tiny import tiny_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_rendering_uses_the_template():
    tokenizer = tiny_tokenizer()
    ids = chat.render(tokenizer, chat.messages("Be Ada.", "Who?"))
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe Ada.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "<|im_start|>"
    whole = chat.render(
        tokenizer, chat.messages("Be Ada.", "Who?", "I am."), add_generation_prompt=False
    )
    assert whole[: len(ids)] == ids
    assert "helpful" in tokenizer.decode(chat.render(tokenizer, chat.messages(None, "Who?")))


@settings(max_examples=60, deadline=None)
@given(system=TEXT, query=TEXT, answer=TEXT)
def test_a_conversation_continues_the_prompt_and_ends_with_the_turn(system, query, answer):
    tokenizer = tiny_tokenizer()
    turn = chat.conversation(tokenizer, system, query, answer)
    assert turn.prompt_ids == chat.render(tokenizer, chat.messages(system, query))
    assert tokenizer.decode(turn.answer_ids) == answer + "<|im_end|>"
    assert turn.answer_ids[-1] == tokenizer.eos_token_id
    assert turn.prompt_ids + turn.answer_ids == turn.ids


def test_a_template_whose_answer_is_not_its_prompts_continuation():
    """Generation's opening shows an empty thinking part that history doesn't."""
    tokenizer = tiny_tokenizer(THINKING)
    turn = chat.conversation(tokenizer, "s", "q", "a")
    assert tokenizer.decode(turn.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(turn.answer_ids) == "a<|im_end|>"


@pytest.mark.parametrize("template", [IGNORES, REFUSES])
def test_without_a_system_role_the_persona_opens_the_user_s_turn(template, caplog, monkeypatch):
    monkeypatch.setattr(chat, "_system_support", {})
    tokenizer = tiny_tokenizer(template)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ids = chat.render(tokenizer, chat.messages("Be Ada.", "Who?"))
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\nBe Ada.\n\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(caplog.records) == 1
    assert not chat.supports_system(tokenizer)
    turn = chat.conversation(tokenizer, "Be Ada.", "Who?", "I am.")
    assert tokenizer.decode(turn.answer_ids) == "I am.<|im_end|>"


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "{% if %}"])
def test_a_missing_or_broken_template_is_refused(template):
    with pytest.raises(InputError, match="chat template"):
        chat.render(tiny_tokenizer(template), chat.messages(None, "q"))
