"""The `Modelfile` from which Ollama makes a model of a GGUF file.

Ollama doesn't run a file's own chat template, it has a template language of its own (Go's). The
template here is read off what the tokenizer's chat template prints for messages with known
contents. Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from typing import Any

from ..dataset import Message
from ..models.chat import end_of_turn, messages, render_text
from .gguf_tokenizer import adds_bos

_SYSTEM, _USER, _ANSWER, _NEXT = "PROBE-SYSTEM", "PROBE-USER", "PROBE-ANSWER", "PROBE-NEXT"
# Three quotation marks at the end of a line end a text, so they are kept apart.
_QUOTES, _APART = '"""', '"\u200b"\u200b"'


def modelfile(tokenizer: Any, gguf_name: str, system_prompt: str) -> str:
    """Return the Modelfile.

    Args:
        tokenizer: the checkpoint's tokenizer.
        gguf_name: name of the GGUF file, which lies in the same folder.
        system_prompt: the persona's text.
    """
    parts = [
        f"FROM ./{gguf_name}",
        f"TEMPLATE {_quoted(_template(tokenizer))}",
        f"SYSTEM {_quoted(system_prompt)}",
    ]
    end = end_of_turn(tokenizer)
    if end is not None:
        parts.append(f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(end)}"')
    return "\n\n".join(parts) + "\n"


def _template(tokenizer: Any) -> str:
    """Return the chat template in Go's template language; Ollama applies it to each turn.

    The first turn has the system message, and the last one ends before the answer.
    """
    turns = messages(_SYSTEM, _USER, _ANSWER)
    whole = _rendered(tokenizer, [*turns, Message(role="user", content=_NEXT)], ask=True)
    first = _rendered(tokenizer, turns, ask=False)
    opening, _, rest = whole.partition(_SYSTEM)
    after_system, _, rest = rest.partition(_USER)
    between, _, asking = rest.partition(_ANSWER)[2].partition(_NEXT)
    closing = first.partition(_ANSWER)[2]
    if not between.startswith(closing):
        closing = ""
    return (
        f"{{{{ if .System }}}}{_literal(opening)}{{{{ .System }}}}{_literal(after_system)}"
        f"{{{{ else }}}}{_literal(between.removeprefix(closing))}{{{{ end }}}}"
        f"{{{{ .Prompt }}}}{_literal(asking)}{{{{ .Response }}}}{_literal(closing)}"
    )


def _rendered(tokenizer: Any, turns: list[Message], *, ask: bool) -> str:
    text = render_text(tokenizer, turns, ask)
    # The engine puts this token before the prompt, as the tokenizer does.
    return text.removeprefix(tokenizer.bos_token) if adds_bos(tokenizer) else text


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return f"{_QUOTES}{text.replace(_QUOTES, _APART)}{_QUOTES}"
