import pytest

from persona_jobs.rewriting.cleaning import clean


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Arr, matey!\n", "Arr, matey!"),
        ("One\r\ntwo\rthree", "One\ntwo\nthree"),
        ("Here is the rewritten answer:\n\nArr!", "Arr!"),
        ("Here's a rewritten version of the answer in Flint's voice: Arr!", "Arr!"),
        ("Sure! Here is my response, in character:\nArr!", "Arr!"),
        ("Rewritten answer: Arr!", "Arr!"),
        ("**Answer:** Arr!", "Arr!"),
        ('Response:\n"Arr, the sea!"', "Arr, the sea!"),
        ("“Arr, the sea!”", "Arr, the sea!"),
        ("«Arr»", "Arr"),
        ("「灯は消えぬ。」", "灯は消えぬ。"),
        ("<think>\nThe user wants a pirate.\n</think>\n\nArr!", "Arr!"),
        # What belongs to the answer stays.
        ('"Arr," said I, "matey"', '"Arr," said I, "matey"'),
        ('"Arr!" That is what I say.', '"Arr!" That is what I say.'),
        ("Here is what I know: the sea.", "Here is what I know: the sea."),
        (
            "Sure as the tide: the answer be forty-two.",
            "Sure as the tide: the answer be forty-two.",
        ),
        ("The answer is 42.", "The answer is 42."),
        ("My answer: no!", "My answer: no!"),
        ("<think>I never stopped thinking", "<think>I never stopped thinking"),
        ("'", "'"),
        ('"', '"'),
        ("", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_cleaning_is_quick_on_long_texts() -> None:
    for text in ("<think>" * 20_000, "here is " * 20_000, '"' * 50_000, "answer" * 20_000):
        assert isinstance(clean(text), str)
