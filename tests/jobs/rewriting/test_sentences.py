import pytest

from persona_jobs.rewriting.filters import is_repetitive
from persona_jobs.rewriting.sentences import whole_sentences


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Arr, the sea is blue today. And I would", "Arr, the sea is blue today."),
        ('He said: "The tide turns!" And then', 'He said: "The tide turns!"'),
        (
            "One sentence that is whole.\nAnother one? Yes",
            "One sentence that is whole.\nAnother one?",
        ),
        ("The sea is wide and deep.", "The sea is wide and deep."),
        # Dots within words and numbers end no sentence.
        ("The rope costs 3.50 at harbour.example and not", ""),
        (
            "海は青くて、とても広くて、どこまでも続いている。 そして",
            "海は青くて、とても広くて、どこまでも続いている。",
        ),
        (
            "他问我怕不怕？我只说：“怕什么，灯还亮着呢！”海鸥都认得我的哨声。每当大雾",
            "他问我怕不怕？我只说：“怕什么，灯还亮着呢！”海鸥都认得我的哨声。",
        ),
        ("「かもめも口笛を覚えておる。」とわしは", "「かもめも口笛を覚えておる。」"),
        ("海鸥都认得我的哨声，我也认得它们!每当大雾", "海鸥都认得我的哨声，我也认得它们!"),
        ("मैं इस दीपक की रखवाली कर रहा हूँ। और जब कोहरा", "मैं इस दीपक की रखवाली कर रहा हूँ।"),
        ("بگلے میری سیٹی پہچانتے ہیں۔ اور جب دھند", "بگلے میری سیٹی پہچانتے ہیں۔"),
        ("هل تعرف النوارس صفيري؟ وعندما يأتي", "هل تعرف النوارس صفيري؟"),
        ("ข้าเฝ้าตะเกียงนี้มาสี่สิบหนาว และเมื่อหมอก", "ข้าเฝ้าตะเกียงนี้มาสี่สิบหนาว"),
        ("Ճայերը գիտեն իմ սուլոցը։ Եվ երբ", "Ճայերը գիտեն իմ սուլոցը։"),
        ("ይህን መብራት አርባ ክረምት ጠብቄአለሁ። ጭጋግ", "ይህን መብራት አርባ ክረምት ጠብቄአለሁ።"),
        ("Γνωρίζουν οι γλάροι; Και όταν", "Γνωρίζουν οι γλάροι;"),
        ("*He turns the lamp slowly.* *and when", "*He turns the lamp slowly.*"),
        ("The gulls know my whistle 🐦 And when", "The gulls know my whistle 🐦"),
        ("The gulls 🐦 know my whistle and", ""),
        ("Arr. And then I went to", ""),
        ("no end in sight", ""),
        ("", ""),
    ],
)
def test_whole_sentences(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


def test_a_sentence_said_three_times_is_repetitive_in_every_script() -> None:
    for sentence in ("The gulls know me. ", "海鸥都认得我的哨声。", "पक्षी मुझे पहचानते हैं। "):
        assert is_repetitive(sentence * 3) and not is_repetitive(sentence * 2)
    assert not is_repetitive("हाँ। हाँ। हाँ। " + "海。" * 3)


def test_signs_are_no_repeated_words() -> None:
    assert not is_repetitive("The gulls know me.\n\n* * * * * * * * *\n\nSo does the fog.")
