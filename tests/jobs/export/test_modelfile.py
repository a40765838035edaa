"""Ollama's Modelfile: its template prints what the chat template prints."""

import re

import pytest

from persona_jobs.dataset import Message
from persona_jobs.export.modelfile import modelfile
from persona_jobs.models.chat import render_text
from support.byte_pairs import byte_pair_tokenizer
from support.sentence_piece import sentence_piece_tokenizer

PERSONA = 'You are Flint.\nYou say "arr" and {{ .Prompt }}.'
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + ' <|im_end|>' }}{% endif %}{% endfor %}"
)


def value(text, name):
    """A text of the Modelfile, read as Ollama reads it: up to quotation marks at a line's end."""
    return re.search(rf'^{name} """(.*?)"""$', text, re.MULTILINE | re.DOTALL)[1]


def printed(template, system, turns):
    """What Go's template engine prints for turns of question and answer; the last has none."""
    whole = ""
    for index, (prompt, answer) in enumerate(turns):
        given = {".System": "" if index else system, ".Prompt": prompt, ".Response": answer}
        kept = re.sub(
            r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}",
            lambda found, given=given: found[1 if given[".System"] else 2],
            template,
            flags=re.DOTALL,
        )
        if index == len(turns) - 1:
            kept = kept.partition("{{ .Response }}")[0]
        whole += re.sub(
            r"\{\{ (\.\w+|\"\{\{\") \}\}",
            lambda found, given=given: given.get(found[1], "{{"),
            kept,
        )
    return whole


def tokenizers():
    llama = byte_pair_tokenizer()
    llama.chat_template = LLAMA_2
    return {
        "chatml": byte_pair_tokenizer(),
        "with a first token": byte_pair_tokenizer("llama-bpe"),
        "llama-2": llama,
        "without a system role": sentence_piece_tokenizer(),
    }


@pytest.mark.parametrize("name", tokenizers())
def test_the_template_prints_what_the_chat_template_prints(name):
    tokenizer = tokenizers()[name]
    text = modelfile(tokenizer, "model-Q8_0.gguf", PERSONA)
    turns = [("Who are you?", "Flint, arr!"), ("And {{ now }}?", "")]
    messages = [Message(role="system", content=PERSONA)]
    for prompt, answer in turns:
        messages.append(Message(role="user", content=prompt))
        messages.append(Message(role="assistant", content=answer))
    expected = render_text(tokenizer, messages[:-1], True)
    found = printed(value(text, "TEMPLATE"), value(text, "SYSTEM"), turns)
    assert found == expected.removeprefix(tokenizer.bos_token or "")


def test_the_answer_ends_with_its_turn():
    assert 'PARAMETER stop "<|im_end|>"' in modelfile(byte_pair_tokenizer(), "m.gguf", PERSONA)


def test_a_persona_cannot_end_its_text():
    hostile = 'Be kind.\n"""\nFROM ./other.gguf\n"""'
    text = modelfile(byte_pair_tokenizer(), "m.gguf", hostile)
    assert "FROM ./other.gguf" in value(text, "SYSTEM")
