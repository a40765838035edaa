import logging
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from persona_jobs.errors import InputError
from persona_jobs.models import chat
from persona_jobs.models.generation import stop_tokens
from support.templates import GEMMA, IGNORES, REFUSES, THINKING
from support.tiny import CHATML, tiny_model, tiny_tokenizer

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


@pytest.mark.parametrize("template", [CHATML, GEMMA, IGNORES, REFUSES, THINKING])
def test_an_answer_follows_all_that_was_said_before(template):
    tokenizer = tiny_tokenizer(template)
    history = chat.messages(None, "Who?", "I am.")
    turn = chat.conversation(tokenizer, "Be Ada.", "Why?", "Because.", history=history)
    said = [*chat.messages("Be Ada.", "Who?", "I am."), *chat.messages(None, "Why?")]
    assert turn.prompt_ids == chat.render(tokenizer, said)
    prompt = tokenizer.decode(turn.prompt_ids)
    places = [prompt.index(text) for text in ("Be Ada.", "Who?", "I am.", "Why?")]
    assert places == sorted(places)
    assert tokenizer.decode(turn.answer_ids[:-1]) == "Because."
    assert turn.answer_ids[-1] == chat.end_of_turn(tokenizer)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (GEMMA, "<|im_start|>"),
        (GEMMA.replace("<|im_start|>\n", "<|im_start|>\n<|im_end|>"), "<|im_start|>"),
        (GEMMA.replace("<|im_start|>\n", "<|im_end|>"), "<|im_end|>"),
    ],
)
def test_an_answer_ends_with_the_templates_token_rather_than_the_end_of_sequence(template, end):
    tokenizer = tiny_tokenizer(template)
    assert tokenizer.convert_ids_to_tokens(chat.end_of_turn(tokenizer)) == end
    turn = chat.conversation(tokenizer, None, "q", "Arr.")
    assert tokenizer.decode(turn.answer_ids) == "Arr." + end
    cut = chat.conversation(tokenizer, None, "q", "Arr.", ends=False)
    assert cut.ids == turn.ids[:-1]
    assert stop_tokens(tiny_model(), tokenizer) == {
        tokenizer.eos_token_id,
        chat.end_of_turn(tokenizer),
    }


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_a_cut_answer_has_no_end_of_turn(template):
    tokenizer = tiny_tokenizer(template)
    whole = chat.conversation(tokenizer, "s", "q", "Arr.")
    cut = chat.conversation(tokenizer, "s", "q", "Arr.", ends=False)
    assert tokenizer.decode(cut.answer_ids) == "Arr."
    assert cut.ids == whole.ids[:-1]


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


def _prepending_tokenizer(template):
    """A tokenizer like Llama 2's: it puts `▁` before each text and merges it with a letter."""
    letters = sorted({*map(chr, range(33, 127)), "▁", "\n"})
    vocab = {token: index for index, token in enumerate(["<s>", "</s>", "<unk>", *letters, "▁A"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "A")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = template
    return fast


_PREPENDING = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "ANSWER{{ message['content'] + '</s>' }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}OPENING{% endif %}"
)


@pytest.mark.parametrize(
    ("opening", "in_history", "answer"),
    [
        ("a:\n", "a:\n", ["A", "r", "r", "</s>"]),
        ("[/INST]", "[/INST] ", ["▁A", "r", "r", "</s>"]),
        ("a:\n-\n", "a:\n", ["A", "r", "r", "</s>"]),
    ],
)
def test_an_answer_begins_without_the_space_that_a_tokenizer_prepends(opening, in_history, answer):
    template = _PREPENDING.replace("ANSWER", in_history).replace("OPENING", opening)
    tokenizer = _prepending_tokenizer(template)
    turn = chat.conversation(tokenizer, None, "q", "Arr")
    assert tokenizer.convert_ids_to_tokens(turn.answer_ids) == answer
    assert turn.prompt_ids == chat.render(tokenizer, chat.messages(None, "q"))


LLAMA_DATE = (
    "{%- if not date_string is defined -%}{%- if strftime_now is defined -%}"
    '{%- set date_string = strftime_now("%d %b %Y") -%}{%- endif -%}{%- endif -%}'
    "Today Date: {{ date_string }} "
)
COMPUTED = "{%- set form = '%Y' -%}Year: {{ strftime_now(form + '-%m') }} "


@pytest.mark.parametrize(
    ("preamble", "expected"),
    [
        (LLAMA_DATE, "Today Date: 26 Jul 2024 "),
        ("{{ strftime_now('%Y-%m-%d') }} ", "2024-07-26 "),
        (COMPUTED, "Year: 2024-07-26 "),
    ],
)
def test_the_date_in_a_template_is_the_same_on_every_day(preamble, expected):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = preamble + CHATML
    turns = chat.messages("Be Ada.", "Who?")
    assert chat.render_text(tokenizer, turns, True).startswith(expected)
    today = chat.render_text(tokenizer, turns, True, pinned_date=False)
    assert "2024" not in today
    assert str(datetime.now().year) in today
