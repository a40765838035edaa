"""A judge's mean score, from the probabilities of the tokens that its score could be made of.

The mean over all scores says more than the likeliest one (G-Eval, Liu et al. 2023). Endpoints give
the likeliest tokens in the place of each token of the answer. Where a score is one token, these are
the scores with their probabilities. Where it is several, such as `1`, `0`, `0`, the probabilities
along the written score are known; a first digit that was not written is followed by what follows
the written one. What may become another score than it seems, such as a `1` that was not written and
may open `100`, is left out, and where that is more than a tenth nothing is weighted.
"""

import math
import re
from collections.abc import Sequence

from ...endpoints import TokenChoice

MAX_SCORE = 100
# Largest share of the probability that may be left out.
_MAX_UNKNOWN = 0.1
# Probabilities are rounded by some endpoints.
_TOLERANCE = 0.01
_END = ""

Choices = dict[str, float]
"""Probability by digits; the empty text stands for the end of the number."""


def mean_score(tokens: Sequence[TokenChoice], score: str) -> float | None:
    """Return the mean score, 0 to 100, or None where the tokens don't tell it.

    Args:
        tokens: the answer's tokens.
        score: the digits of the score that the answer states.
    """
    places = _places(tokens, score)
    if not places:
        return None
    written = [text for text, _ in places]
    choices = [options for _, options in places]
    if len(choices[0]) < 2:
        return None  # Only the written token: nothing to weigh.
    known: dict[int, float] = {}
    _collect(known, "", 1.0, 0, written, choices)
    share = sum(known.values())
    if share < 1 - _MAX_UNKNOWN:
        return None
    return sum(value * probability for value, probability in known.items()) / share


def _places(tokens: Sequence[TokenChoice], score: str) -> list[tuple[str, Choices]]:
    """Return the written digits and the choices of each token of the score and the one after it.

    The list is empty where the tokens don't spell the score or hold impossible probabilities.
    """
    text = "".join(token.text for token in tokens)
    start = text.rfind(score)
    if start < 0 or text[start + len(score) :][:1].isdigit():
        return []
    places: list[tuple[str, Choices]] = []
    left, position = score, 0
    for token in tokens:
        end = position + len(token.text)
        if end > start and (left or places):
            first = not places
            digits = token.text.strip()
            if left and not (digits and left.startswith(digits)):
                return []
            choices = _choices(token, first=first)
            if choices is None:
                return []
            places.append((digits if left else _END, choices))
            if not left:
                break
            left = left.removeprefix(digits)
        position = end
    return places if not left else []


def _choices(token: TokenChoice, *, first: bool) -> Choices | None:
    """Return the probabilities of digits, and after the first token also of the number's end."""
    found: Choices = {}
    total = 0.0
    for text, logprob in token.logprobs.items():
        if not logprob <= _TOLERANCE:  # also true for NaN
            return None
        probability = math.exp(logprob)
        total += probability
        digits = text.strip() if first else text.rstrip()
        if re.fullmatch("[0-9]{1,3}", digits):
            found[digits] = found.get(digits, 0.0) + probability
        elif not first:
            found[_END] = found.get(_END, 0.0) + probability
    whole = sum(found.values())
    if total > 1 + _TOLERANCE or whole <= 0:
        return None
    return {digits: probability / whole for digits, probability in found.items()}


def _collect(
    known: dict[int, float],
    prefix: str,
    probability: float,
    index: int,
    written: Sequence[str],
    choices: Sequence[Choices],
) -> None:
    """Add the scores that follow a written prefix, with their probabilities, to `known`."""
    for digits, share in choices[index].items():
        number, weight = prefix + digits, probability * share
        if digits == _END:
            _add(known, number, weight)
        elif digits != written[index]:
            _add_other(known, number, weight, index, written, choices)
        elif index + 1 < len(choices):
            _collect(known, number, weight, index + 1, written, choices)
        else:
            _add(known, number, weight)


def _add_other(
    known: dict[int, float],
    number: str,
    weight: float,
    index: int,
    written: Sequence[str],
    choices: Sequence[Choices],
) -> None:
    """Add a number that was not written, where it is known how it would end."""
    by_digit = len(written[0]) == 1 and all(len(digits) < 2 for digits in choices[0])
    if not by_digit or (len(number) > 1 and number != "10") or number == "0":
        _add(known, number, weight)
    elif index == 0 and number != "1" and len("".join(written)) > 1:
        for digits, share in choices[1].items():
            _add(known, number + digits, weight * share)


def _add(known: dict[int, float], number: str, weight: float) -> None:
    if number and int(number) <= MAX_SCORE:
        known[int(number)] = known.get(int(number), 0.0) + weight
