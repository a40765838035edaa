"""Reasoning that models write before or within an answer; it never becomes training data."""

import re

_TAGS = r"think|thinking|thoughts?|reasoning|scratchpad|seed:think|seed:cot_budget_reflect"
# Opening and closing markers, in any case: tags (Qwen, DeepSeek, Seed), brackets (Magistral),
# triangles (Kimi), special tokens (Cohere, Sky-T1, MedGemma).
_MARKERS = (
    (rf"<(?:{_TAGS})(?:\s[^<>]{{0,80}})?>", rf"</(?:{_TAGS})\s*>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("◁think▷", "◁/think▷"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    ("<unused94>", "<unused95>"),
)
_MARKER = re.compile(
    f"(?P<opening>{'|'.join(opening for opening, _ in _MARKERS)})"
    f"|(?:{'|'.join(closing for _, closing in _MARKERS)})",
    re.IGNORECASE,
)
# What some models put around the answer that follows their thoughts.
_ANSWER = re.compile(
    r"(?:<answer>|<\|START_RESPONSE\|>|<\|begin_of_solution\|>)(.*?)"
    r"(?:</answer>|<\|END_RESPONSE\|>|<\|end_of_solution\|>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
# gpt-oss ("harmony"): channels, of which only `final` is for the user.
_CHANNEL = "<|channel|>"
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]{0,80}(?:<\|constrain\|>[^<]{0,80})?<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
# The same where a server has removed the special tokens but not the names.
_BARE_ANALYSIS = re.compile(r"\s*(?:assistant)?analysis(?=[A-Z])")
_BARE_FINAL = "assistantfinal"


def without_reasoning(text: str) -> str | None:
    """Return the text without thoughts, or None when thoughts are all that it surely holds.

    What precedes a closing marker without an opening one is a thought, as some chat templates
    write the opening one into the prompt. A thought that does not end was cut off.
    """
    if _CHANNEL in text:
        finals = list(_FINAL.finditer(text))
        return _MESSAGE_END.split(text[finals[-1].end() :], 1)[0].strip() if finals else None
    if _BARE_ANALYSIS.match(text):
        _, found, answer = text.partition(_BARE_FINAL)
        return answer.strip() if found else None
    parts: list[str] = []
    start = 0
    is_open = marked = False
    for match in _MARKER.finditer(text):
        marked = True
        if match["opening"]:
            if not is_open:
                parts.append(text[start : match.start()])
            is_open = True
        else:
            if not is_open:
                parts.clear()
            is_open = False
            start = match.end()
    if is_open:
        return None
    if not marked:
        return text
    answer = "".join([*parts, text[start:]]).strip()
    wrapped = _ANSWER.match(answer)
    return wrapped[1].strip() if wrapped else answer


def has_reasoning(text: str) -> bool:
    """Return whether the text holds a marker of reasoning."""
    return bool(_CHANNEL in text or _BARE_ANALYSIS.match(text) or _MARKER.search(text))
