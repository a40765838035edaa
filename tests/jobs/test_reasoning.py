import pytest

from persona_jobs.reasoning import has_reasoning, without_reasoning
from persona_jobs.rewriting.cleaning import clean
from persona_jobs.rewriting.filters import is_meta_text

_HARMONY = "<|channel|>analysis<|message|>Be gruff.<|end|><|start|>assistant"


@pytest.mark.parametrize(
    "text",
    [
        "Arr!",
        "<think>\nBe gruff.\n</think>\n\nArr!",
        "\n<THINK>Be gruff.</THINK>\nArr!",
        "Be gruff.\n</think>\n\nArr!",
        "Be gruff.</Thinking>Arr!",
        "[THINK]Be gruff.[/THINK]Arr!",
        "Be gruff.[/THINK]Arr!",
        "<thinking>Be gruff.</thinking>Arr!",
        "<reasoning>Be gruff.</reasoning>Arr!",
        "<thought>Be gruff.</thought>Arr!",
        "<seed:think>Be gruff.</seed:think>Arr!",
        '<think type="short">Be gruff.</think>Arr!',
        "<think>One<think>two</think>three</think>Arr!",
        "<think>One</think><think>two</think>Arr!",
        "Arr!<think>Was that gruff?</think>",
        "<think>Be gruff.</think><answer>Arr!</answer>",
        "◁think▷Be gruff.◁/think▷Arr!",
        "<|START_THINKING|>Be gruff.<|END_THINKING|><|START_RESPONSE|>Arr!<|END_RESPONSE|>",
        f"{_HARMONY}<|channel|>final<|message|>Arr!",
        f"{_HARMONY}<|channel|>final<|message|>Arr!<|return|>",
        "<|channel|>final<|message|>Arr!<|end|>",
        "analysisBe gruff.assistantfinalArr!",
    ],
)
def test_only_the_answer_is_left(text: str) -> None:
    assert without_reasoning(text) == "Arr!"
    assert clean(text) == "Arr!"
    assert not has_reasoning("Arr!")


@pytest.mark.parametrize(
    "text",
    [
        "<think>Be gruff. The fog",
        "<Thought>Be gruff. The fog",
        "[THINK]Be gruff. The fog",
        "<think>Be gruff.</think>Arr! <think>And the fog",
        "<|channel|>analysis<|message|>Be gruff.",
        "<|channel|>commentary<|message|>Be gruff.<|end|>",
        "analysisBe gruff.",
    ],
)
def test_thoughts_that_do_not_end_are_unusable(text: str) -> None:
    assert without_reasoning(text) is None
    assert is_meta_text(clean(text), "Why?")


def test_words_about_thinking_are_no_markers() -> None:
    text = "I think (not) <b>so</b>; analysis of my reasoning: 1 < 2 > 0. A reasonable thought?"
    assert without_reasoning(text) == text and not has_reasoning(text)
