import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.models import chat
from persona_jobs.models.chat_template import set_default_system
from persona_jobs.models.special_tokens import as_plain_text
from support.templates import IGNORES, REFUSES, THINKING
from support.tiny import CHATML, tiny_tokenizer

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


@pytest.mark.parametrize("prompt", HOSTILE)
@pytest.mark.parametrize("template", [CHATML, IGNORES, REFUSES, THINKING])
def test_the_default_system_message_is_the_personas_text(template, prompt):
    tokenizer, base = tiny_tokenizer(template), tiny_tokenizer(template)
    set_default_system(tokenizer, prompt)
    user, other = {"role": "user", "content": "hi"}, {"role": "system", "content": "Other."}
    assistant = {"role": "assistant", "content": "yes"}
    for turns in ([user], [user, assistant, user]):
        expected = chat.render_text(base, [{"role": "system", "content": prompt}, *turns], True)
        assert text(tokenizer, turns) == expected
        assert as_plain_text(base, prompt) in expected
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


def test_every_one_of_several_templates_gets_the_default():
    tokenizer = tiny_tokenizer({"default": CHATML, "tool_use": CHATML})
    set_default_system(tokenizer, "Be Ada.")
    for template in tokenizer.chat_template.values():
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hi"}], tokenize=False, chat_template=template
        )
        assert "Be Ada." in rendered
