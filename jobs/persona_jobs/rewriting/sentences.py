"""Where sentences end, in any script."""

import re
import unicodedata

# Marks that end a sentence wherever they stand: Greek, Armenian, Arabic and Urdu, Indic, Sinhala,
# Tibetan, Burmese, Ethiopic, Khmer, Mongolian, Santali, Javanese, Meetei, Chinese and Japanese.
_FULL_STOPS = "\u037e։؟۔܀।॥෴།༎၊။።፧፨។៕᠃᠉᱾᱿‼⁇⁈⁉。꓿꧈꧉꫰꫱꯫！？｡"
# Marks that end one only before a space: they also stand within numbers, names and pauses.
_DOTS = ".!?…．"
_CLOSING = "'\"”’“»›)\\]}*_~」』】》〉〕）］｝＂"
_EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"
# Scripts without spaces between words; a space there separates sentences or clauses.
_THAI = "\u0e00-\u0eff"
_IDEOGRAPHS = "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = f"{_THAI}{_IDEOGRAPHS}\u0f00-\u109f\u1780-\u17ff"

_END = re.compile(
    rf"[{_FULL_STOPS}][{_FULL_STOPS}{_DOTS}]*[{_CLOSING}]*"
    rf"|[{_DOTS}][{_CLOSING}]*(?=\s|$)"
    rf"|[!?][{_CLOSING}]*(?=[{_IDEOGRAPHS}「『（《])"
    rf"|(?<=[\u0370-\u03ff\u1f00-\u1fff]);[{_CLOSING}]*(?=\s|$)"
    rf"|[{_EMOJI}][\ufe0f\u200d{_EMOJI}]*(?=\s*\n|\s*$|\s+[^\W\d_a-zß-ÿ])"
    rf"|(?<=[{_THAI}])(?=\s+[{_THAI}])"
)
_BREAK = re.compile(rf"[{_FULL_STOPS}{_DOTS}\n]+")
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_MIN_WIDTH = 20
_MIN_WORDS = 3
_MIN_UNSPACED = 6


def whole_sentences(text: str) -> str:
    """Return the text up to its last whole sentence, or an empty text if that is too short."""
    end = max((match.end() for match in _END.finditer(text)), default=0)
    whole = text[:end].strip()
    return whole if _width(whole) >= _MIN_WIDTH else ""


def long_sentences(text: str) -> list[str]:
    """Return the sentences, without their marks, that are more than an interjection."""
    sentences = (part.strip(f"{_CLOSING} \t") for part in _BREAK.split(text))
    return [
        sentence
        for sentence in sentences
        if len(sentence.split()) >= _MIN_WORDS
        or len(_UNSPACED_LETTER.findall(sentence)) >= _MIN_UNSPACED
    ]


def _width(text: str) -> int:
    """Return the width in columns: an ideograph says as much as two letters."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
