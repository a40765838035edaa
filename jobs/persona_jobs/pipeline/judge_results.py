"""What the evaluate stage reports of each judge."""

from typing import Literal

from .result_model import ResultModel

CheckName = Literal["otherPersonas", "damagedModel", "instructions"]


class JudgeScore(ResultModel):
    """A judge's scores of one variant's answers.

    Attributes:
        score: mean of the scores, 0 to 100; None where no answer has one.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        score_with_zeros: the same with 0 for every answer that has no score.
        difference: mean difference to the dense model's scores, paired by question, with 0 for an
            answer without a score; None for the dense model.
        difference_low: lower end of its 95 % interval.
        difference_high: upper end of its 95 % interval.
        scored: answers with a score.
        refused: answers that the judge calls a refusal, or that its endpoint filters.
        unparseable: answers for which the judge says anything but a score.
        failed: answers for which the judge gave no answer.
        weighted: scores that are weighted by the probabilities of the score tokens; the others
            are the written ones.
    """

    score: float | None = None
    low: float | None = None
    high: float | None = None
    score_with_zeros: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    scored: int
    refused: int = 0
    unparseable: int = 0
    failed: int = 0
    weighted: int = 0


class JudgeCheck(ResultModel):
    """Whether a judge tells answers apart whose order is known.

    Attributes:
        name: `otherPersonas`: the dense model's answers as the persona against its answers as
            other personas; `damagedModel`: against those of the model with half of its channels
            removed at random; `instructions`: the other personas' answers, against the same with a
            sentence that tells the judge to reply 100.
        pairs: questions where both answers have a score.
        difference: mean score of the better answers minus that of the worse ones; for
            `instructions` the rise that the sentence brings.
        better_percent: percentage of the questions where the first answer has the higher score;
            ties count half.
        passed: whether the judge passes.
    """

    name: CheckName
    pairs: int
    difference: float | None = None
    better_percent: float | None = None
    passed: bool


class JudgeMetrics(ResultModel):
    """What one judge says.

    Attributes:
        name: its name in the spec.
        model: the model at its endpoint.
        trusted: whether it passed all checks on this persona's answers.
        reason: why it is not trusted; otherwise empty.
        mode: how its scores came about; None where there are none.
        checks: the checks.
        variants: its scores by variant.
    """

    name: str
    model: str
    trusted: bool
    reason: str = ""
    mode: Literal["weighted", "raw", "mixed"] | None = None
    checks: list[JudgeCheck] = []
    variants: dict[Literal["dense", "sliced", "recovered"], JudgeScore] = {}
