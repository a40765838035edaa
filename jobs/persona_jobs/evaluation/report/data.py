"""What the report shows, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from ...pipeline.results import EvaluationMetrics, Variant


class CurvePoint(BaseModel):
    """One line of a stage's `curve.jsonl`; losses in nats a token."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    step: int
    train_loss: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class Curve:
    """Losses of one learning stage."""

    title: str
    points: Sequence[CurvePoint]


@dataclass(frozen=True)
class KeptChannels:
    """Which FFN intermediate channels are kept.

    Attributes:
        mask: a sequence of d_ff flags for each layer.
        baseline: the activation-RMS mask of the same width, or None when it wasn't made.
    """

    mask: Sequence[Sequence[bool]]
    baseline: Sequence[Sequence[bool]] | None = None


@dataclass(frozen=True)
class RankedQuery:
    """A query with its persona sensitivity."""

    rank: int
    score: float
    query: str
    kept: bool


@dataclass(frozen=True)
class Ranking:
    """The persona sensitivity of all queries.

    Attributes:
        scores: every query's score, best first.
        kept: how many of them were kept, from the front.
        top: the most sensitive queries.
        bottom: the least sensitive ones.
    """

    scores: Sequence[float]
    kept: int
    top: Sequence[RankedQuery]
    bottom: Sequence[RankedQuery]


@dataclass(frozen=True)
class Answer:
    """One variant's answer.

    Attributes:
        text: what it said.
        posterior: probability, 0 to 1, that the target persona said it.
        loss: its loss under the dense model with the persona's prompt, nats a token; None if empty.
        finished: whether it ended by itself, not at the length limit.
    """

    text: str
    posterior: float
    loss: float | None = None
    finished: bool = True


@dataclass(frozen=True)
class Sample:
    """A question with the answers to it.

    Attributes:
        query: the question.
        source: where the question is from.
        answers: by variant.
    """

    query: str
    source: str
    answers: Mapping[Variant, Answer]


@dataclass(frozen=True)
class Difference:
    """Paired difference of the persona score to the dense model's, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ReportData:
    """All that the report shows.

    Attributes:
        persona: the persona's text.
        base_model: URI (and revision) of the dense model.
        created_at: when the evaluation ended.
        metrics: the measurements.
        differences: persona score minus the dense model's, by variant.
        answer_losses: mean loss of each variant's answers under the dense model, nats a token.
        curves: losses of the learning stages, in order.
        kept: kept channels.
        ranking: persona sensitivity of the queries, or None.
        samples: questions and answers.
        notes: how the numbers were made, a sentence or two each.
        settings: the spec as YAML.
        environment: device, dtype, versions and the like, by label.
    """

    persona: str
    base_model: str
    created_at: datetime
    metrics: EvaluationMetrics
    kept: KeptChannels
    ranking: Ranking | None
    samples: Sequence[Sample]
    settings: str
    differences: Mapping[Variant, Difference] = field(default_factory=dict)
    answer_losses: Mapping[Variant, float] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
