"""What a stage reports: results and the termination message.

The termination message is the JSON object a stage process writes to its container's
termination-message path (Kubernetes limits it to 4,096 bytes); the operator copies it into status.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from .judge_results import JudgeMetrics
from .result_model import ResultModel

MAX_TERMINATION_MESSAGE_BYTES = 4096
MAX_REASON_LENGTH = 160
Outcome = Literal["Done", "Reused", "Failed", "Interrupted"]
PartName = Literal["refit", "reconstruct", "fineTune"]
Variant = Literal["dense", "masked", "sliced", "recovered", "baseline"]


class StageFailure(ResultModel):
    """Why a stage failed.

    Attributes:
        error_class: name of the exception (`InputError`, `OutOfMemoryError`, …).
        message: what is wrong, one sentence.
        subject: spec field path, file or object it is about; may be empty.
        hint: what to do about it; may be empty.
    """

    error_class: str
    message: str
    subject: str = ""
    hint: str = ""


class TerminationMessage(ResultModel):
    """Outcome of one stage process."""

    stage: str
    key: str = ""
    outcome: Outcome
    seconds: float = 0.0
    metrics: dict[str, JsonValue] = {}
    failure: StageFailure | None = None

    def encode(self) -> bytes:
        """Return JSON of at most 4,096 bytes.

        Results are shortened, then texts, until it fits.
        """
        message = self
        if len(_encode(self)) > MAX_TERMINATION_MESSAGE_BYTES:
            message = self.model_copy(update={"metrics": _essential(self.metrics)})
        for limit in (4096, 1024, 512, 256, 64):
            encoded = _encode(message)
            if len(encoded) <= MAX_TERMINATION_MESSAGE_BYTES:
                return encoded
            failure = message.failure and message.failure.model_copy(
                update={
                    name: _shorten(getattr(message.failure, name), limit)
                    for name in ("message", "subject", "hint")
                }
            )
            scalars = {k: v for k, v in message.metrics.items() if not isinstance(v, dict | list)}
            message = message.model_copy(
                update={"failure": failure, "metrics": scalars if limit > 1024 else {}}
            )
        return _encode(message)

    @classmethod
    def decode(cls, text: str) -> "TerminationMessage | None":
        """Return the message in `text`, or None when there is none (after a crash or a kill)."""
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None


def _essential(results: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return results with only those parts of an evaluation that a gate or a status needs."""
    try:
        evaluation = EvaluationMetrics.model_validate(results)
    except ValueError:
        return dict(results)
    shown = ("dense", evaluation.served)
    variants = {name: evaluation.variants[name] for name in shown if name in evaluation.variants}
    judges = [
        judge.model_copy(update={"checks": [], "reason": _shorten(judge.reason, MAX_REASON_LENGTH)})
        for judge in evaluation.judges
    ]
    short = evaluation.model_copy(update={"variants": variants, "judges": judges})
    return short.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _encode(message: TerminationMessage) -> bytes:
    data: dict[str, Any] = message.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


class HeldOutKl(ResultModel):
    """KL divergence from the dense model on held-out data, in nats per answer token.

    Attributes:
        persona: on the persona's answers.
        generic: on general answers; None where there are none.
        weighted: both with their weights, which decides what is better.
    """

    persona: float
    generic: float | None = None
    weighted: float


class RecoveryPart(ResultModel):
    """One part of the recovery and what it changed.

    Attributes:
        name: the part.
        kept: whether its result is used: it is, when it lowers the weighted divergence.
        before: divergence before the part.
        after: divergence with the part's result, used or not.
        seconds: time that it took.
        settings: settings that were chosen by measuring.
    """

    name: PartName
    kept: bool
    before: HeldOutKl
    after: HeldOutKl
    seconds: float
    settings: dict[str, JsonValue] = {}


class RecoveryMetrics(ResultModel):
    """Results of the recover stage.

    Attributes:
        persona_kl_before: divergence of the pruned model on the persona's held-out answers.
        persona_kl: the same after the recovery.
        generic_kl_before: divergence of the pruned model on held-out general answers.
        generic_kl: the same after the recovery.
        kept: names of the parts whose result is used.
        left_out: names of the parts that did not lower the divergence.
        train_examples: the persona's answers to learn from.
        generic_examples: general answers to learn from.
        held_out_examples: the persona's held-out answers.
        warnings: sentences about what there is too little of.
        parts: the parts in order.
    """

    persona_kl_before: float
    persona_kl: float
    generic_kl_before: float | None = None
    generic_kl: float | None = None
    kept: list[PartName]
    left_out: list[PartName]
    train_examples: int
    generic_examples: int
    held_out_examples: int
    warnings: list[str]
    parts: list[RecoveryPart]


class VariantMetrics(ResultModel):
    """Measurements of one variant of the model.

    Attributes:
        parameters: number of weights.
        checkpoint_bytes: size of its weights as stored, in bytes.
        persona_score: 0 to 100, mean over the questions of voice x relevance x fluency x
            originality of the answers.
        persona_score_low: lower end of the 95 % interval; None with fewer than five questions.
        persona_score_high: upper end of the 95 % interval; None with fewer than five questions.
        persona_score_retention: the persona score in percent of the dense model's on the same
            questions; None for the dense model.
        persona_score_retention_low: lower end of the 95 % interval; None with fewer than five
            questions, or where the dense model's score cannot be told from 0.
        persona_score_retention_high: upper end of the 95 % interval; None likewise.
        voice: 0 to 100, mean posterior of the target among target and reference personas.
        relevance: 0 to 100, mean posterior of the answer's question among other questions.
        fluency: 0 to 100, how usual the answers' losses are among the dense model's own.
        originality: 0 to 100, share of tokens that are neither copied from the persona's text nor
            repeated.
        answer_loss: mean loss of the answers under the dense model with the persona's prompt, in
            nats per token.
        persona_loss: held-out cross-entropy on the persona's answers, in nats per token.
        persona_kl: held-out KL to the dense model on the persona's answers, in nats per token.
        generic_loss: held-out cross-entropy on general instructions, in nats per token.
        generic_kl: held-out KL to the dense model on general instructions, in nats per token.
        prefill_tokens_per_second: prompt tokens per second.
        decode_tokens_per_second: generated tokens per second, batch of one.
    """

    parameters: int
    checkpoint_bytes: int
    persona_score: float | None = None
    persona_score_low: float | None = None
    persona_score_high: float | None = None
    persona_score_retention: float | None = None
    persona_score_retention_low: float | None = None
    persona_score_retention_high: float | None = None
    voice: float | None = None
    relevance: float | None = None
    fluency: float | None = None
    originality: float | None = None
    answer_loss: float | None = None
    persona_loss: float | None = None
    persona_kl: float | None = None
    generic_loss: float | None = None
    generic_kl: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


class EvaluationMetrics(ResultModel):
    """Results of the evaluate stage.

    Attributes:
        served: the variant that the sliced checkpoint holds.
        chance_persona_score: persona score of usual answers that ignore the persona.
        queries: number of questions answered.
        answers_per_query: number of answers to each question.
        variants: measurements by variant.
        judges: what the judges say.
    """

    served: Literal["sliced", "recovered"]
    chance_persona_score: Annotated[float, Field(ge=0, le=100)]
    queries: int
    answers_per_query: int = 1
    variants: dict[Variant, VariantMetrics]
    judges: list[JudgeMetrics] = []


class ShownAnswers(ResultModel):
    """One line of the evaluation's `shown.jsonl`: a question for the reader, not measured.

    Attributes:
        query: the question.
        answers: text by variant.
    """

    query: str
    answers: dict[Variant, str]
