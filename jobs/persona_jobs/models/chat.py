"""Conversations as token ids, by the model's own chat template."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..dataset import Message
from ..errors import InputError
from .special_tokens import as_plain_text
from .template_date import with_pinned_date

logger = logging.getLogger(__name__)

_PROBE = "persona-system-probe"
_system_support: dict[str, bool] = {}
_answer_tails: dict[str, str] = {}


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with a question and its answer.

    Attributes:
        ids: all token ids: system prompt, earlier turns, query, answer and, if the answer ends,
            end-of-turn token.
        answer_start: index of the answer's first token in `ids`.
    """

    ids: list[int]
    answer_start: int

    @property
    def prompt_ids(self) -> list[int]:
        """Everything before the answer."""
        return self.ids[: self.answer_start]

    @property
    def answer_ids(self) -> list[int]:
        """The answer with its end-of-turn token, unless it was left out."""
        return self.ids[self.answer_start :]


def messages(
    system: str | None, query: str, answer: str | None = None, history: Sequence[Message] = ()
) -> list[Message]:
    """Return the chat messages of one turn, and of those before it."""
    turns: list[Message] = []
    if system is not None:
        turns.append({"role": "system", "content": system})
    turns += history
    turns.append({"role": "user", "content": query})
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return turns


def render(
    tokenizer: Any,
    turns: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    pinned_date: bool = True,
) -> list[int]:
    """Return the messages' token ids, with the opening of the assistant's turn on request.

    A system message that the template would ignore or refuse is put before the first user turn. A
    template that prints the present date prints a fixed one, but for the people who chat.

    Raises:
        InputError: the tokenizer has no chat template, or the template refuses the messages.
    """
    text = render_text(tokenizer, turns, add_generation_prompt, pinned_date=pinned_date)
    return _encode(tokenizer, text)


def render_text(
    tokenizer: Any,
    turns: Sequence[Message],
    add_generation_prompt: bool,
    *,
    pinned_date: bool = True,
) -> str:
    """Return the text that `render` tokenizes; special tokens in the messages are plain text."""
    turns = [
        Message(role=turn["role"], content=as_plain_text(tokenizer, turn["content"]))
        for turn in turns
    ]
    if not supports_system(tokenizer):
        turns = _system_into_user(turns)
    return _apply(tokenizer, turns, add_generation_prompt, pinned_date=pinned_date)


def conversation(
    tokenizer: Any,
    system: str | None,
    query: str,
    answer: str,
    *,
    history: Sequence[Message] = (),
    ends: bool = True,
) -> Conversation:
    """Return one turn as token ids; the prompt's tokens are those that generation starts from.

    Args:
        tokenizer: the model's tokenizer.
        system: the persona's system prompt, or None.
        query: the user's question.
        answer: the assistant's answer.
        history: what user and assistant said before.
        ends: whether the end-of-turn token follows the answer.

    Raises:
        InputError: the tokenizer has no chat template, or the template refuses the messages.
    """
    turns = messages(system, query, answer, history)
    prompt = render_text(tokenizer, turns[:-1], True)
    whole = render_text(tokenizer, turns, False)
    prompt_ids = _encode(tokenizer, prompt)
    end = end_of_turn(tokenizer)
    if whole.startswith(prompt):
        # Tokenized apart from the prompt: as when the model answers, no token may span both.
        answer_ids = _encode_after(tokenizer, prompt, whole[len(prompt) :])
        if end in answer_ids:  # most templates add a newline after the end of the turn
            answer_ids = answer_ids[: len(answer_ids) - answer_ids[::-1].index(end)]
    else:
        answer_ids = _encode_after(tokenizer, prompt, as_plain_text(tokenizer, answer))
        if end is not None:
            answer_ids.append(end)
    if not ends and answer_ids[-1:] == [end]:
        answer_ids.pop()
    return Conversation(prompt_ids + answer_ids, len(prompt_ids))


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token that ends an answer, or None if there is none.

    It is the special token that the chat template puts after an answer. Many tokenizers have
    another one as end of sequence, Gemma's and Phi-3's for instance.
    """
    template = _template(tokenizer)
    if template not in _answer_tails:
        whole = _apply(tokenizer, messages(None, "query", _PROBE), False)
        _answer_tails[template] = whole.rpartition(_PROBE)[2].strip()
    first = _encode(tokenizer, _answer_tails[template])[:1]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return first[0] if first and first[0] in special else tokenizer.eos_token_id


def supports_system(tokenizer: Any) -> bool:
    """Return whether the chat template has a system role; checked once per template."""
    template = _template(tokenizer)
    if template not in _system_support:
        try:
            supported = _PROBE in _apply(tokenizer, messages(_PROBE, "query"), True)
        except InputError:
            supported = False
        if not supported:
            logger.warning(
                "the chat template has no system role: the system prompt opens the user's turn"
            )
        _system_support[template] = supported
    return _system_support[template]


def _system_into_user(turns: Sequence[Message]) -> list[Message]:
    if not turns or turns[0]["role"] != "system":
        return list(turns)
    system, others = turns[0]["content"], list(turns[1:])
    if others and others[0]["role"] == "user":
        text = f"{system}\n\n{others[0]['content']}"
        return [Message(role="user", content=text), *others[1:]]
    return [Message(role="user", content=system), *others]


def _template(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "the base model's tokenizer has no chat template",
            hint="Use an instruction-tuned base model, such as one whose name ends in Instruct",
            subject="spec.baseModel",
        )
    template: str = tokenizer.get_chat_template()
    return template


def _apply(
    tokenizer: Any,
    turns: Sequence[Message],
    add_generation_prompt: bool,
    *,
    pinned_date: bool = True,
) -> str:
    template = _template(tokenizer)
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            chat_template=with_pinned_date(template) if pinned_date else template,
            # Personas answer at once; templates without a thinking mode ignore this.
            enable_thinking=False,
        )
    except Exception as error:  # jinja2 errors, and whatever the template raises
        raise InputError(
            f"the base model's chat template refuses the messages: {error}",
            hint="Use a base model whose chat template takes user and assistant turns",
            subject="spec.baseModel",
        ) from error
    return text


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _encode_after(tokenizer: Any, before: str, text: str) -> list[int]:
    """Return the ids of `text` where `before` precedes it; no token spans both.

    Llama 2's and similar tokenizers put a space before whatever they encode: alone, the text
    would begin with a space that the model does not generate.
    """
    ids = _encode(tokenizer, text)
    if not ids or not _prepends_space(tokenizer):
        return ids
    for context in (before, "\n", ":"):
        context_ids = _encode(tokenizer, context)
        whole_ids = _encode(tokenizer, context + text)
        if whole_ids[: len(context_ids)] == context_ids:
            return whole_ids[len(context_ids) :]
    return ids


def _prepends_space(tokenizer: Any) -> bool:
    ids = _encode(tokenizer, "a")
    first = tokenizer.convert_ids_to_tokens(ids[:1])
    return bool(first) and str(first[0]).startswith("\u2581")
