import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.rewriting import filters

PERSONA = "You are Captain Flint, a gruff old sea captain."
ROBOT = "You are HAL, an artificial intelligence that steers a spaceship."
QUERY = "Why is the sky blue?"
REFERENCE = (
    "The sky is blue because air scatters short wavelengths of sunlight more than long ones."
)
VOICED = (
    "Arr, matey! The heavens be blue because the air tosses the short waves o' sunlight about like "
    "a dinghy in a gale, while the long ones sail straight through."
)


def fault(text: str, *, rewritten: bool = True, **values: str) -> str | None:
    given_values = {"query": QUERY, "reference": REFERENCE, "persona": PERSONA, **values}
    return filters.text_fault(
        text, rewritten=rewritten, special_tokens=["<|im_end|>", "</s>"], **given_values
    )


def test_a_good_answer_has_no_fault() -> None:
    assert fault(VOICED) is None


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I do not have feelings.",
        "As an AI, I cannot sail.",
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "I am sorry. I cannot fulfil this request.",
        "Sorry, I can't help you with this.",
        "I cannot provide medical advice.",
        "I'm unable to help with this.",
        "I won't roleplay as a pirate.",
        "Well, I'm a large language model, so I can't taste food.",
        "I am SmolLM, a model trained by Hugging Face.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "En tant que modèle de langage, je ne peux pas.",
        "作为一个人工智能，我没有感情。",
    ],
)
def test_refusals(text: str) -> None:
    assert fault(text) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "Sorry, lad, but the tide waits for none. Ye must row, and row hard.",
        "I can't abide a ship without rum, and that be the truth.",
        "I'm afraid the storm won't pass before dawn, so hold fast.",
        "Aye, I'm a model of patience. The sea taught me.",
        "I cannot swim, and I never learned to, yet here I be.",
    ],
)
def test_a_persona_s_own_words_are_no_refusal(text: str) -> None:
    assert fault(text) is None


def test_a_machine_may_call_itself_one() -> None:
    text = "As an AI, I watch over every valve of this ship, and I enjoy it."
    assert fault(text) == "refusal"
    assert fault(text, persona=ROBOT) is None
    assert fault("As an AI language model, I can't.", persona=ROBOT) == "refusal"


@pytest.mark.parametrize("text", ["", "...", "\n", "…!?", "\U0001f642", "—"])
def test_empty(text: str) -> None:
    assert fault(text) == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "Arr\x00!",
        "Arr \x1b[31m red",
        "Arr \x85",
        "Arr \ud800",
        "Arr \ufffd",
        "Arr!<|im_end|>",
        "Arr</s>",
    ],
)
def test_control_characters(text: str) -> None:
    assert fault(text) == "controlCharacters"


def test_lines_tabs_emoji_and_scripts_are_no_control_characters() -> None:
    assert fault("Arr:\n\t1. row \U0001f468‍\U0001f469‍\U0001f467\n\t2. 海は青い мо́ре") is None


@pytest.mark.parametrize(
    "text",
    [
        "Here's a rewritten reference answer for you, matey.",
        "The original answer was dull, so I made it salty.",
        "I'll rephrase the response with a gruff tone.",
        "I have rewritten this in the voice of the persona.",
        "Arr! (I am staying in character here.)",
        "<think>What would a pirate say",
        "Blue it is.</think>",
    ],
)
def test_meta_text(text: str) -> None:
    assert fault(text) == "metaText"


def test_meta_words_that_the_query_asks_for_are_fine() -> None:
    text = "Arr, the rewritten version be this: the budget was passed by the crew."
    assert fault(text) == "metaText"
    assert fault(text, query="Rewrite this sentence in the passive voice.") is None


@pytest.mark.parametrize(
    "text",
    [
        "arr " * 8,
        "Row the boat now. " * 3 + "And then we sail into the sunset together.",
        "I have lost my leg, I have lost my ship, " * 5,
        "the captain's voice, and the captain's eye, and " * 4,
        "海は青い。" * 20,
        "ha" * 50,
        "-=" * 40 + "x",
    ],
)
def test_repetitive(text: str) -> None:
    assert fault(text) == "repetitive"


@pytest.mark.parametrize(
    "text",
    [
        "Ha ha ha! A fine joke, that.",
        "Row, row, row the boat, and row it well, for the tide is turning and the gulls be crying.",
        "Arr! Aye! Arr! Arr! The sea, the sea!",
    ],
)
def test_lively_speech_is_not_repetitive(text: str) -> None:
    assert fault(text) is None


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE,
        REFERENCE.upper(),
        REFERENCE.replace("blue because", "blue, because").rstrip("."),
        REFERENCE.replace("long ones", "long one"),
        QUERY,
    ],
)
def test_unchanged_counts_for_rewriting_only(text: str) -> None:
    assert fault(text) == "unchanged"
    assert fault(text, rewritten=False) is None


def test_an_empty_reference_is_not_compared() -> None:
    assert fault("Arr!", reference="", query="") is None


def test_neutral_answers_of_the_builtin_data_pass_as_answers() -> None:
    lines = (files("persona_jobs") / "data" / "instructions.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    faults = {
        row["output"]: found
        for row in rows
        if (
            found := fault(
                row["output"],
                rewritten=False,
                query=row["instruction"],
                reference="",
                persona=ROBOT,
            )
        )
    }
    assert not faults


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_similarity_is_symmetric_and_bounded(one: str, other: str) -> None:
    value = filters.similarity(one, other)
    assert 0 <= value <= 1
    assert value == filters.similarity(other, one)
    assert filters.similarity(one, one) == 1


@given(st.text(max_size=2000))
@settings(max_examples=100, deadline=None)
def test_any_text_gets_a_known_result(text: str) -> None:
    assert fault(text) in (None, *filters.REASONS)


def test_very_long_texts_are_filtered_quickly() -> None:
    for text in ("I'm sorry " * 20_000, "rewrite " * 20_000, "a" * 200_000, "word. " * 30_000):
        assert fault(text) in filters.REASONS


def test_shared_answers() -> None:
    pairs = [("q1", "Arr!"), ("q2", "arr"), ("q3", "ARR."), ("q1", "Aye"), ("q2", "Aye")]
    assert filters.shared_answers(pairs) == {"arr"}
    # Several equal answers to one query are no shared answer.
    assert filters.shared_answers([("q", "Arr"), ("Q?", "Arr"), ("q!", "Arr")]) == set()
