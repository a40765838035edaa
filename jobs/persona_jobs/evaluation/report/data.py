"""What the report shows, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ...dataset import CurvePoint
from ...pipeline.results import EvaluationMetrics, RecoveryMetrics, Variant
from ..bootstrap import Interval
from ..persona_score import ScoredAnswer
from ..speed import Speed


@dataclass(frozen=True)
class Curve:
    """Losses of one learning stage."""

    title: str
    points: Sequence[CurvePoint]


@dataclass(frozen=True)
class KeptChannels:
    """Which FFN intermediate channels are kept.

    Attributes:
        mask: a sequence of d_ff flags per layer.
        baseline: the activation-RMS mask of the same width, or None without a baseline.
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
        kept: number of kept queries, which come first.
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
        text: the answer.
        figures: voice, relevance, fluency and originality, and the loss under the dense model.
        finished: whether it ended before the length limit.
    """

    text: str
    figures: ScoredAnswer
    finished: bool = True


@dataclass(frozen=True)
class Sample:
    """A question with the answers to it.

    Attributes:
        query: the question.
        source: the held-out queries, or a question file's URI.
        answers: by variant.
    """

    query: str
    source: str
    answers: Mapping[Variant, Answer]


@dataclass(frozen=True)
class ReportData:
    """The content of the report.

    Attributes:
        persona: the persona's text.
        base_model: URI (and revision) of the dense model.
        created_at: when the evaluation ended.
        metrics: the measurements.
        differences: persona score minus the dense model's, by variant.
        speeds: prefill and decode speed, by variant.
        curves: losses of the learning stages, in order.
        recovery: what the recover stage reports, or None without it.
        kept: kept channels.
        ranking: persona sensitivity of the queries, or None.
        samples: questions and answers.
        notes: how the figures were measured, a sentence or two each.
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
    differences: Mapping[Variant, Interval] = field(default_factory=dict)
    speeds: Mapping[Variant, Speed] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    recovery: RecoveryMetrics | None = None
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
