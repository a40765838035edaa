"""A persona's system prompt as the default system message of a chat template."""

from typing import Any

from .chat import supports_system
from .special_tokens import as_plain_text

# Jinja reads a string literal as Python does, so only these need an escape; braces and block
# marks are plain text inside a literal, and all other characters stay readable.
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_DEFAULT = """\
{%- if not messages or messages[0]['role'] != 'system' -%}
{%- set messages = [{'role': 'system', 'content': PROMPT}] + messages -%}
{%- endif -%}
"""
# For templates that ignore or refuse a system message: it opens the first user turn.
_INTO_USER = """\
{%- set persona_system = PROMPT -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set persona_system = messages[0]['content'] -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if messages and messages[0]['role'] == 'user' -%}
{%- set first = {'role': 'user', 'content': persona_system + '\\n\\n' + messages[0]['content']} -%}
{%- set messages = [first] + messages[1:] -%}
{%- else -%}
{%- set messages = [{'role': 'user', 'content': persona_system}] + messages -%}
{%- endif -%}
"""
# A persona is trained on answers without a thinking part.
_NO_THINKING = """\
{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}
"""


def with_default_system(template: str, system_prompt: str, *, system_role: bool) -> str:
    """Return the chat template with `system_prompt` as the default system message.

    Args:
        template: the base model's Jinja chat template.
        system_prompt: the persona's system prompt, any text.
        system_role: whether the template has a system role; if not, the prompt (or the
            explicit system message, which always wins) opens the first user turn.
    """
    preamble = _DEFAULT if system_role else _INTO_USER
    if "enable_thinking" in template:
        preamble = _NO_THINKING + preamble
    return preamble.replace("PROMPT", _literal(system_prompt)) + template


def set_default_system(tokenizer: Any, system_prompt: str) -> None:
    """Give the tokenizer's chat template, or each of its templates, a default system message.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    system_role = supports_system(tokenizer)
    system_prompt = as_plain_text(tokenizer, system_prompt)
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        tokenizer.chat_template = {
            name: with_default_system(template, system_prompt, system_role=system_role)
            for name, template in templates.items()
        }
    else:
        tokenizer.chat_template = with_default_system(
            templates, system_prompt, system_role=system_role
        )


def _literal(text: str) -> str:
    escaped = (
        _ESCAPES.get(character)
        or (f"\\x{ord(character):02x}" if character < " " or character == "\x7f" else character)
        for character in text
    )
    return '"' + "".join(escaped) + '"'
