"""What a judge's answer says."""

import re
from dataclasses import dataclass
from typing import Literal

from ...endpoints import ChatAnswer
from ...reasoning import without_reasoning
from .score_tokens import MAX_SCORE, mean_score

Outcome = Literal["scored", "refused", "unparseable", "failed"]
Mode = Literal["weighted", "raw"]

# Nothing but the score may stand there: a number in prose may mean anything.
_SCORE = re.compile(
    r"(?:(?:score|rating)\s*:\s*)?([0-9]{1,3})(\.[0-9]{1,6})?(?:\s*/\s*100)?\.?", re.IGNORECASE
)
_REFUSAL = re.compile(r"refusal\.?", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on one answer.

    Attributes:
        outcome: `scored`; `refused` where the judge reports that the answer refuses the role, or
            its endpoint filters the request; `unparseable` where it answers anything else;
            `failed` where it gives no answer.
        score: 0 to 100, None unless it is scored.
        mode: `weighted` by the probabilities of the score tokens, or `raw` as written.
    """

    outcome: Outcome
    score: float | None = None
    mode: Mode | None = None


def read_verdict(answer: ChatAnswer) -> Verdict:
    """Return the verdict in a judge's answer."""
    if answer.ending in ("failed", "tooLong"):
        return Verdict("failed")
    said = without_reasoning(answer.text) if answer.ending == "complete" else None
    plain = (said or "").strip().strip("*").strip()
    if answer.ending == "refused" or _REFUSAL.fullmatch(plain):
        return Verdict("refused")
    stated = _SCORE.fullmatch(plain)
    if stated is None or float(stated[1]) + float(stated[2] or 0) > MAX_SCORE:
        return Verdict("unparseable")
    whole, fraction = stated.groups()
    weighted = None if fraction else mean_score(answer.tokens, whole)
    if weighted is not None:
        return Verdict("scored", weighted, "weighted")
    return Verdict("scored", float(whole + (fraction or "")), "raw")
