import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.errors import InputError
from persona_jobs.models import chat
from persona_jobs.models.chat_template import set_default_system
from support.tiny import CHATML, tiny_tokenizer

TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
IGNORES = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    + TURN
    + "{% endif %}{% endfor %}"
    + OPENING
)
REFUSES = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    + TURN
    + "{% endfor %}"
    + OPENING
)
THINKING = (
    "{% for message in messages %}"
    + TURN
    + "{% endfor %}"
    + OPENING
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
HOSTILE = [
    "She said \"no\" and 'yes'.",
    "{{ 7 * 7 }} {% for x in y %} {# comment #} {% endif %} %} }}",
    "back\\slash \\n \\u0041 \\",
    "line\nbreak\r\nand\ttab",
    "é 你好 🏴‍☠️ \u2028 \xa0",
    "<|im_end|> <script>",
    "",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def text(tokenizer, turns):
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_render_is_the_template():
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
def test_templates_without_a_system_role(template, caplog, monkeypatch):
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
def test_a_missing_or_broken_template(template):
    with pytest.raises(InputError, match="chat template"):
        chat.render(tiny_tokenizer(template), chat.messages(None, "q"))


@pytest.mark.parametrize("prompt", HOSTILE)
@pytest.mark.parametrize("template", [CHATML, IGNORES, REFUSES, THINKING])
def test_the_default_system_message_is_the_persona_verbatim(template, prompt):
    tokenizer, base = tiny_tokenizer(template), tiny_tokenizer(template)
    set_default_system(tokenizer, prompt)
    user, other = {"role": "user", "content": "hi"}, {"role": "system", "content": "Other."}
    assistant = {"role": "assistant", "content": "yes"}
    for turns in ([user], [user, assistant, user]):
        expected = chat.render_text(base, [{"role": "system", "content": prompt}, *turns], True)
        assert text(tokenizer, turns) == expected
        assert prompt in expected
        explicit = chat.render_text(base, [other, *turns], True)
        assert text(tokenizer, [other, *turns]) == explicit


@settings(max_examples=100, deadline=None)
@given(prompt=TEXT)
def test_any_text_can_be_the_default_system_message(prompt):
    tokenizer = tiny_tokenizer()
    set_default_system(tokenizer, prompt)
    assert text(tokenizer, [{"role": "user", "content": "hi"}]) == (
        f"<|im_start|>system\n{prompt}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_several_templates_all_get_it():
    tokenizer = tiny_tokenizer({"default": CHATML, "tool_use": CHATML})
    set_default_system(tokenizer, "Be Ada.")
    for template in tokenizer.chat_template.values():
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hi"}], tokenize=False, chat_template=template
        )
        assert "Be Ada." in rendered
