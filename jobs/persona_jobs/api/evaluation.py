"""How a persona model is measured, and the gate it must pass before it takes traffic."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from .common import HubRevision, LabelName, Number, SpecModel, cel, validations
from .judge import Judge
from .sources import FileUri, RemoteSource
from .status import JUDGE_METRIC


class QuestionFile(RemoteSource):
    """A file with questions for the evaluation; they are kept out of the training data."""

    uri: FileUri
    """`s3://…` or `file://…`: a role-play evaluation file (JSON with `questions`), or JSONL with a
    `query` a line."""
    revision: HubRevision | None = None
    """A digest of the content or a label, as for the base model."""


GateMetric = Literal[
    "personaScore",
    "personaScoreRetention",
    "voice",
    "relevance",
    "fluency",
    "originality",
    "answerLoss",
    "personaLoss",
    "personaKl",
    "genericLoss",
    "genericKl",
    "checkpointBytes",
    "parameters",
    "prefillTokensPerSecond",
    "decodeTokensPerSecond",
    "judgeScore",
]
_BOUNDS = ("min", "max", "maxDecrease", "minRetentionPercent", "maxIncreasePercent")
_ONE_BOUND = "set exactly one of " + ", ".join(_BOUNDS)
_NAMED_JUDGE = "judge goes with metric judgeScore only, and is required there"
_WHOLE = "wholeInterval goes with min, max and maxDecrease"


class Threshold(SpecModel):
    """One bound on one metric of the evaluation."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                f"[{', '.join(f'has(self.{b})' for b in _BOUNDS)}].filter(x, x).size() == 1",
                _ONE_BOUND,
            ),
            cel("(self.metric == 'judgeScore') == has(self.judge)", _NAMED_JUDGE),
            cel(
                "!has(self.wholeInterval) || !self.wholeInterval || has(self.min) || "
                "has(self.max) || has(self.maxDecrease)",
                _WHOLE,
            ),
        )
    )

    name: LabelName
    """Name of the threshold, unique in the gate."""
    metric: GateMetric
    """Metric of the evaluation, as in `status.revisions[].metrics`."""
    judge: LabelName | None = None
    """Name of the judge whose score is meant by `judgeScore`. A judge that is not trusted meets no
    threshold."""
    min: Number | None = None
    """Lowest value."""
    max: Number | None = None
    """Highest value."""
    max_decrease: Number | None = None
    """Largest decrease below the dense model's value, in the metric's own unit."""
    min_retention_percent: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Lowest value as a percentage of the dense model's."""
    max_increase_percent: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Largest increase over the dense model's value, in percent."""

    whole_interval: bool = False
    """Whether the bound must hold in the whole 95 % interval, not for the value alone; where there
    is no interval it does not hold. With `maxDecrease` it is the interval of the difference, which
    judges' scores have."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        simple = (self.min, self.max, self.max_decrease)
        bounds = (*simple, self.min_retention_percent, self.max_increase_percent)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(_ONE_BOUND)
        if (self.metric == "judgeScore") != (self.judge is not None):
            raise ValueError(_NAMED_JUDGE)
        if self.whole_interval and all(bound is None for bound in simple):
            raise ValueError(_WHOLE)
        return self

    @property
    def measured_as(self) -> str:
        """Name of the metric in `status.revisions[].metrics`."""
        return self.metric if self.judge is None else JUDGE_METRIC + self.judge


class Gate(SpecModel):
    """Thresholds that a new revision must meet before it takes traffic. All must hold."""

    thresholds: Annotated[
        list[Threshold],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ]
    """The thresholds, each with a name of its own."""

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        names = [threshold.name for threshold in self.thresholds]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"thresholds names {name} more than once")
        return self


class Evaluation(SpecModel):
    """What is measured on the sliced model, always beside the dense one."""

    question_files: Annotated[
        list[QuestionFile],
        Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = []
    """Further question files beside the persona's own held-out queries."""
    max_queries: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Answer at most this many questions with each model."""
    samples_per_question: Annotated[int, Field(ge=1, le=32)] = 1
    """Answers to each question; the score of a question is the mean over its answers."""
    shown_questions: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=2000)]],
        Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ["Who are you, and how do you spend your days?", "I had a bad day. What should I do?"]
    """Questions whose answers `persona run` shows, the dense model's beside the checkpoint's. They
    are not measured. Default: who the persona is and how it spends its days, and what to do after a
    bad day."""
    max_answer_tokens: Annotated[int, Field(ge=8, le=4096)] = 128
    """Longest answer in tokens."""
    generic_samples: Annotated[int, Field(ge=4, le=10_000)] = 100
    """General instructions for the generic held-out loss."""
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Draws of the score's 95 % confidence interval; below five questions there is none."""
    baseline: bool = True
    """Whether the activation-RMS mask of the same width and recovery is measured too."""
    judges: Annotated[
        list[Judge],
        Field(
            max_length=4,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ] = []
    """Language models that score the answers."""
    gate: Gate | None = None
    """Thresholds for taking traffic. Without a gate every evaluated revision is served."""

    @model_validator(mode="after")
    def _each_judge_once(self) -> Self:
        names = [judge.name for judge in self.judges]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"judges names {name} more than once")
        return self
