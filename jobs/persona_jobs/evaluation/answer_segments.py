"""Which tokens of an answer count in its score, and the segments that they form.

Text that is copied from the persona or repeated says nothing about a model's voice: tokens in such
n-grams do not count. The others are divided into segments, each of which is scored by itself, so
that a few words cannot colour a whole answer.
"""

from collections.abc import Iterable, Sequence

TokenIds = Sequence[int]
NGRAM = 4
SEGMENT_TOKENS = 16
# Segment number of the tokens that do not count.
NOT_COUNTED = 0


def counted_tokens(answer: TokenIds, sources: Iterable[TokenIds]) -> list[bool]:
    """Return for each token of an answer whether it counts.

    A token does not count where it lies in an n-gram of four tokens that stands in one of the
    sources, or that stood earlier in the answer.

    Args:
        answer: token ids.
        sources: texts that the answer must not copy, as token ids.
    """
    copied = {ngram for source in sources for ngram in _ngrams(source)}
    counted = [True] * len(answer)
    seen: set[tuple[int, ...]] = set()
    for start, ngram in enumerate(_ngrams(answer)):
        if ngram in copied or ngram in seen:
            counted[start : start + NGRAM] = [False] * NGRAM
        seen.add(ngram)
    return counted


def segments(counted: Sequence[bool]) -> list[int]:
    """Return each token's segment, from 1 on, or `NOT_COUNTED`.

    Counted tokens form segments of nearly equal length, as close to 16 tokens as that allows.
    """
    total = sum(counted)
    number = max(1, round(total / SEGMENT_TOKENS))
    place, result = 0, []
    for counts in counted:
        result.append(1 + place * number // total if counts else NOT_COUNTED)
        place += counts
    return result


def segment_sums(values: Sequence[float], numbers: Sequence[int]) -> list[float]:
    """Return the sum of the values in each segment; the first is that of `NOT_COUNTED`.

    Args:
        values: one value for each token.
        numbers: the tokens' segments, from `segments`.
    """
    sums = [0.0] * (max(numbers, default=0) + 1)
    for value, number in zip(values, numbers, strict=True):
        sums[number] += value
    return sums


def _ngrams(ids: TokenIds) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
