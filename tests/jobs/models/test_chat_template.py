import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from persona_jobs.models import chat
from persona_jobs.models.chat_template import set_default_system
from persona_jobs.models.special_tokens import as_plain_text
from persona_jobs.sources import cards
from support.cards import card, json_bytes
from support.templates import GEMMA, IGNORES, REFUSES, THINKING
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


JINJA = (
    "{{ 7 * 7 }} {% for m in messages %}{{ m.content }}{% endfor %} {# gone #} "
    "{{ cycler.__init__.__globals__ }} \"]} -%}{{ raise_exception('x') }} \\n \\x41 {{char}}"
)


@pytest.mark.parametrize("template", [CHATML, GEMMA])
def test_what_looks_like_jinja_in_a_card_stays_text(template, tmp_path):
    persona = cards.parse(json_bytes(card(description=JINJA, name="A {{ 1 }} B")), user="you")
    tokenizer = tiny_tokenizer(template)
    set_default_system(tokenizer, persona.text)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "Ahoy"}], tokenize=False, add_generation_prompt=True
    )
    assert persona.text in prompt
    assert JINJA.replace("{{char}}", "A {{ 1 }} B") in prompt
    assert prompt.count("Ahoy") == 1
    turns = chat.messages(persona.text, persona.examples[0].turns[0].query, JINJA)
    assert JINJA in chat.render_text(tokenizer, turns, False)
