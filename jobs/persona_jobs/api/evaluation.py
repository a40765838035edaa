"""How a persona model is measured, and the gate it must pass before it takes traffic."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from .common import HubRevision, SpecModel, cel, validations
from .sources import FileUri

Percent = Annotated[int, Field(ge=0, le=100)]


class QuestionFile(SpecModel):
    """A file with questions for the evaluation; they are kept out of the training data."""

    uri: FileUri
    """`s3://…` or `file://…`: a role-play evaluation file (JSON with `questions`), or JSONL with a
    `query` a line."""
    revision: HubRevision | None = None
    """Any label that changes when the content does."""


class Gate(SpecModel):
    """Thresholds that a new revision must meet before it takes traffic. All that are set must
    hold."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.minPersonaScore) || has(self.minPersonaScoreRetentionPercent) || "
                "has(self.maxGenericLossIncreasePercent)",
                "set at least one threshold, or leave the gate out",
            )
        )
    )

    min_persona_score: Percent | None = None
    """Lowest persona score, 0 to 100."""
    min_persona_score_retention_percent: Annotated[int, Field(ge=0, le=200)] | None = None
    """Lowest persona score as a percentage of the dense model's."""
    max_generic_loss_increase_percent: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Largest increase of the generic held-out loss over the dense model's, in percent."""

    @model_validator(mode="after")
    def _some_threshold(self) -> Self:
        thresholds = (
            self.min_persona_score,
            self.min_persona_score_retention_percent,
            self.max_generic_loss_increase_percent,
        )
        if all(threshold is None for threshold in thresholds):
            raise ValueError("set at least one threshold, or leave the gate out")
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
    max_answer_tokens: Annotated[int, Field(ge=8, le=4096)] = 128
    """Longest answer in tokens."""
    generic_samples: Annotated[int, Field(ge=4, le=10_000)] = 100
    """General instructions for the generic held-out loss."""
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples of the 95 % confidence interval."""
    baseline: bool = True
    """Whether the activation-RMS mask of the same width and recovery is measured too."""
    gate: Gate | None = None
    """Thresholds for taking traffic. Without a gate every evaluated revision is served."""
