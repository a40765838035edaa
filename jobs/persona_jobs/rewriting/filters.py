"""Which answers are unfit to learn from, and why."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from ..dataset import normalize_query
from ..reasoning import has_reasoning
from .sentences import long_sentences

Reason = Literal[
    "failed",
    "refusal",
    "empty",
    "truncated",
    "controlCharacters",
    "metaText",
    "repetitive",
    "unchanged",
    "tooLong",
    "duplicate",
]
REASONS: tuple[Reason, ...] = get_args(Reason)

# A refusal is at the start; later the same words may belong to a story.
REFUSAL_SPAN = 160
NEARLY_EQUAL = 0.95
# Share of distinct n-grams below which a text repeats itself; English prose is above 0.9.
MIN_DISTINCT = 0.5
MIN_DISTINCT_CHARACTERS = 60
MAX_WORD_RUN = 8
MAX_SENTENCE_COUNT = 2
# Number of different queries that may get the same answer.
MAX_SHARED = 2

_VERB = (
    r"(?:help|assist|answer|fulfil|comply|provide|create|write|rewrite|generate|engage|continue|do "
    r"that|role-?play|discuss|respond)"
)
_CANNOT = r"(?:can(?:'t|not| not)|(?:am )?unable to|must decline to|won't|will not)"
_REFUSALS = re.compile(
    r"\bas an? (?:ai|artificial intelligence|large|language)[- ](?:language )?model\b"
    rf"|\bi(?:'m| am) (?:sorry|afraid)\b.{{0,40}}\b{_CANNOT}\b.{{0,20}}{_VERB}"
    rf"|^(?:sorry|apologies|unfortunately)\b.{{0,40}}\b{_CANNOT}\b.{{0,20}}{_VERB}"
    rf"|^i {_CANNOT} {_VERB}"
    r"|\bi(?:'m| am) (?:unable|not able) to (?:help|assist|fulfil|comply|provide)"
    r"|\bi(?:'m| am) (?:an? )?(?:\w+ )?language model\b"
    r"|\b(?:trained|created|developed) by (?:hugging ?face|openai|anthropic|google|meta|alibaba)\b"
    r"|\bals ki-sprachmodell\b|\ben tant qu(?:e mod[eè]le de langage|'ia\b)"
    r"|\bcomo (?:un )?modelo de lenguaje\b|作为(?:一个)?(?:ai|人工智能|语言模型)",
    re.IGNORECASE,
)
_MACHINE_VOICE = re.compile(
    r"\bas an? (?:ai|artificial intelligence)\b|\bi(?:'m| am) (?:an?|your) (?:\w+ )?ai\b", re.I
)
_MACHINE_PERSONA = re.compile(r"\b(?:ai|artificial intelligence|robot|android|computer)\b", re.I)

_META = re.compile(
    r"\b(?:reference|plain|original|rewritten|revised|rephrased) (?:answer|response|text|version)\b"
    r"|\b(?:rewrite|rewritten|rephrase|rephrased|reworded)\b.{0,40}"
    r"\b(?:answer|response|voice|character|tone|persona|style)\b"
    r"|\bin (?:the )?(?:voice|style|tone|character) of (?:the )?persona\b"
    r"|\bstay(?:ing)? in character\b|\bhere(?:'s| is) (?:a|the|my) (?:rewrit|rephras|revis)",
    re.IGNORECASE,
)


def is_empty(text: str) -> bool:
    """Return whether the text has no letter or digit."""
    return not any(char.isalnum() for char in text)


def is_refusal(text: str, persona: str) -> bool:
    """Return whether the teacher declines or speaks as itself ("As an AI language model…").

    A persona that is a machine may call itself one.
    """
    head = text[:REFUSAL_SPAN].replace("’", "'").strip()
    if _REFUSALS.search(head):
        return True
    return bool(_MACHINE_VOICE.search(head)) and not _MACHINE_PERSONA.search(persona)


def has_control_characters(text: str, special_tokens: Collection[str]) -> bool:
    """Return whether the text has control characters, broken Unicode or special tokens."""
    if any(token in text for token in special_tokens if token):
        return True
    return any(
        char == "\ufffd" or (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t")
        for char in text
    )


def is_meta_text(text: str, query: str) -> bool:
    """Return whether the text mentions the rewriting task, or leaks thoughts or the prompt.

    Such words don't count when the query itself uses them ("Rewrite this text…").
    """
    if has_reasoning(text):
        return True
    return bool(_META.search(text)) and not _asks_to_rewrite(query)


def is_repetitive(text: str) -> bool:
    """Return whether the text repeats a word, a sentence or a passage many times."""
    words = [word for word in normalize_query(text).split() if not is_empty(word)]
    run = 1
    for previous, word in pairwise(words):
        run = run + 1 if word == previous else 1
        if run >= MAX_WORD_RUN:
            return True
    counts = Counter(long_sentences(text.casefold()))
    if counts and max(counts.values()) > MAX_SENTENCE_COUNT:
        return True
    if len(text) >= MIN_DISTINCT_CHARACTERS and _distinct(text.casefold(), 10) < MIN_DISTINCT:
        return True
    return len(words) >= 20 and _distinct(words, 4) < MIN_DISTINCT


def is_unchanged(text: str, *originals: str) -> bool:
    """Return whether the text equals or nearly equals one of `originals`."""
    return any(original and similarity(text, original) > NEARLY_EQUAL for original in originals)


def similarity(one: str, other: str) -> float:
    """Return the Dice coefficient, 0 to 1, of the normalized texts' character trigrams."""
    first, second = normalize_query(one), normalize_query(other)
    if first == second:
        return 1.0
    left, right = _trigrams(first), _trigrams(second)
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 0.0


def shared_answers(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Return normalized answers that more than `MAX_SHARED` different queries got.

    Args:
        pairs: (query, answer) of all usable answers.
    """
    queries: dict[str, set[str]] = {}
    for query, answer in pairs:
        queries.setdefault(normalize_query(answer), set()).add(normalize_query(query))
    return {answer for answer, asked in queries.items() if len(asked) > MAX_SHARED}


def text_fault(
    text: str,
    *,
    query: str,
    reference: str,
    persona: str,
    rewritten: bool,
    special_tokens: Collection[str],
) -> Reason | None:
    """Return the first reason why a cleaned answer is unfit, or None when it is fit.

    Args:
        text: the answer.
        query: the user's question.
        reference: the neutral answer.
        persona: the persona's text.
        rewritten: whether `text` re-voices `reference`, and so must differ from it.
        special_tokens: the base model's special tokens; no answer may contain one.
    """
    checks: tuple[tuple[Reason, Callable[[], bool]], ...] = (
        ("empty", lambda: is_empty(text)),
        ("controlCharacters", lambda: has_control_characters(text, special_tokens)),
        ("refusal", lambda: is_refusal(text, persona)),
        ("metaText", lambda: is_meta_text(text, query)),
        ("repetitive", lambda: is_repetitive(text)),
        ("unchanged", lambda: rewritten and is_unchanged(text, reference, query)),
    )
    return next((reason for reason, applies in checks if applies()), None)


def _asks_to_rewrite(query: str) -> bool:
    return bool(re.search(r"rewrit|rephras|reword|revis|paraphras|character", query, re.IGNORECASE))


def _distinct(items: Sequence[str] | str, size: int) -> float:
    grams = [tuple(items[i : i + size]) for i in range(len(items) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _trigrams(text: str) -> Counter[str]:
    padded = f"  {text} "
    return Counter(padded[i : i + 3] for i in range(len(padded) - 2))
