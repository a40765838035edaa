"""Settings of the pipeline's learning stages: score, rewrite, mask and recover."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_snake

from .common import DecimalBetween, SpecModel, cel, validations
from .endpoint import Endpoint


class Scoring(SpecModel):
    """How instructions are ranked by persona sensitivity (s(q) in the paper)."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.firstBlock) || !has(self.lastBlock) || "
                "self.lastBlock >= self.firstBlock",
                "lastBlock must not be before firstBlock",
            )
        )
    )

    keep_percent: Annotated[int, Field(ge=1, le=100)] = 40
    """Percentage of the instructions that are kept: the most persona-sensitive ones."""
    first_block: Annotated[int, Field(ge=0, le=1000)] = 0
    """First transformer block whose hidden states are compared, counted from 0."""
    last_block: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Last transformer block whose hidden states are compared. Default: the last one."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.last_block is not None and self.last_block < self.first_block:
            raise ValueError("lastBlock must not be before firstBlock")
        return self


class Teacher(SpecModel):
    """Who writes the persona's answers. Without `openAI` the base model is its own teacher."""

    open_ai: Annotated[Endpoint | None, Field(alias="openAI")] = None
    """A teacher behind an OpenAI-compatible endpoint."""
    strategy: Literal["Rewrite", "Answer"] = "Rewrite"
    """`Rewrite` re-voices the neutral answer as the persona and keeps its meaning (the paper's);
    `Answer` lets the persona answer directly."""
    temperature: Annotated[str, DecimalBetween("0", "2")] = "1.0"
    """Sampling temperature. Near 1 the answers stay close to the teacher's own distribution."""
    max_tokens: Annotated[int, Field(ge=8, le=4096)] = 192
    """Longest answer in tokens."""
    overlong: Literal["Drop", "CutAtSentence"] = "Drop"
    """What happens to answers that reach maxTokens: `Drop` leaves them out as truncated,
    `CutAtSentence` keeps their whole sentences (for small teachers that ramble)."""
    samples_per_query: Annotated[int, Field(ge=1, le=16)] = 1
    """Answers written for each training query."""
    min_yield_percent: Annotated[int, Field(ge=0, le=100)] = 50
    """The stage fails when fewer than this percentage of the answers is usable."""


class Dataset(SpecModel):
    """How the persona's data is divided. What neither share takes is for training."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.validationPercent) || !has(self.testPercent) || "
                "self.validationPercent + self.testPercent <= 80",
                "validationPercent and testPercent must leave at least 20 for training",
            )
        )
    )

    validation_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Percentage of the kept queries for early stopping."""
    test_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Percentage of the kept queries for evaluation only."""
    max_tokens: Annotated[int, Field(ge=32, le=32768)] = 1024
    """Longer conversations (persona prompt included) are left out of training."""

    @model_validator(mode="after")
    def _train_share(self) -> Self:
        if self.validation_percent + self.test_percent > 80:
            raise ValueError(
                "validationPercent and testPercent must leave at least 20 for training"
            )
        return self


class StraightThrough(SpecModel):
    """Mask learning with a straight-through gradient (the paper's), all weights frozen."""

    initialization: Literal["ActivationRMS", "OptimalBrainSurgeon", "Random"] = "ActivationRMS"
    """Where the scores start: the rank of each channel's activation RMS on the persona's data, the
    ranking of the method `OptimalBrainSurgeon` with its default settings, or random."""
    scales: bool = False
    """Whether each kept channel also learns a factor for its activation. The factors are folded
    into `down_proj` when the model is sliced."""
    objective: Literal["KL", "CrossEntropy", "Sum"] = "KL"
    """Loss on the answer tokens: KL divergence to the dense model, cross-entropy (the paper's), or
    their sum."""
    steps: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Optimizer steps."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Conversations per step. Large batches learn more steadily."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Conversations per forward pass; bounds memory and does not change the result."""
    learning_rate: Annotated[str, DecimalBetween("0.000001", "10")] = "0.04"
    """Adam's peak step size for the scores, with cosine decay."""
    beta2: Annotated[str, DecimalBetween("0.5", "0.99999")] = "0.98"
    """Adam's second-moment decay."""
    evaluate_every: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Steps between two evaluations of the held-out loss."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 5
    """Stop after this many evaluations without improvement; the best mask is kept."""


class OptimalBrainSurgeon(SpecModel):
    """Layer-wise removal of the channels that a least-squares fit misses least."""

    ridge: Annotated[str, DecimalBetween("0.000001", "1000")] = "0.3"
    """Penalty on the fit's distance from the original weights, relative to each channel's own
    energy. The less data there is, the larger it should be."""


# The member with the settings of each method that has some.
METHOD_MEMBERS = {
    "StraightThrough": "straightThrough",
    "OptimalBrainSurgeon": "optimalBrainSurgeon",
}
_DEFAULT_METHOD: Literal["OptimalBrainSurgeon"] = "OptimalBrainSurgeon"


def _goes_with(method: str) -> str:
    return f"{METHOD_MEMBERS[method]} goes with method {method} only"


def _member_rule(method: str) -> dict[str, str]:
    """Return the rule that the member of `method` is set with that method only."""
    chosen = f"self.method == '{method}'"
    unset = "!has(self.method) || " if method == _DEFAULT_METHOD else "has(self.method) && "
    return cel(f"!has(self.{METHOD_MEMBERS[method]}) || ({unset}{chosen})", _goes_with(method))


class Pruning(SpecModel):
    """How the FFN's intermediate channels that are kept are chosen."""

    model_config = ConfigDict(
        json_schema_extra=validations(*(_member_rule(method) for method in METHOD_MEMBERS))
    )

    sparsity_percent: Annotated[int, Field(ge=1, le=90)] = 25
    """Percentage of each layer's FFN intermediate channels that are removed."""
    alignment: Annotated[int, Field(ge=1, le=4096)] = 256
    """The number of kept channels is rounded to a multiple of this (256 suits GGUF K-quants and
    tensor parallelism); lowered for small models only, and recorded in the metrics."""
    method: Literal["OptimalBrainSurgeon", "StraightThrough", "ActivationNorm"] = _DEFAULT_METHOD
    """`OptimalBrainSurgeon` removes, layer by layer, the channels that a least-squares fit to the
    dense model misses least, and needs the refit; `StraightThrough` learns the mask on the
    persona's data, which takes several times as long and is the better choice without a
    recovery; `ActivationNorm` keeps the channels with the largest activation RMS."""
    straight_through: StraightThrough | None = None
    """Settings of the method `StraightThrough`."""
    optimal_brain_surgeon: OptimalBrainSurgeon | None = None
    """Settings of the method `OptimalBrainSurgeon`."""

    @model_validator(mode="before")
    @classmethod
    def _default_member(cls, given: object) -> object:
        """Give the chosen method its default settings, so that equal specs are equal."""
        if not isinstance(given, dict):
            return given
        member = METHOD_MEMBERS.get(str(given.get("method", _DEFAULT_METHOD)))
        if member is None or {member, to_snake(member)} & given.keys():
            return given
        return {**given, member: {}}

    @model_validator(mode="after")
    def _member_of_method(self) -> Self:
        for method, member in METHOD_MEMBERS.items():
            if getattr(self, to_snake(member)) is not None and self.method != method:
                raise ValueError(_goes_with(method))
        return self


class Refit(SpecModel):
    """Closed-form least-squares refit of the kept `down_proj` columns."""

    enabled: bool = True
    """Whether the refit runs."""
    ridge: Annotated[str, DecimalBetween("0.000001", "1000")] | None = None
    """Penalty on the distance from the original weights, relative to each channel's own energy. The
    less data there is, the larger it should be. Default: the one of 0.1, 0.3, 1, 3 and 10 with
    the lowest divergence from the dense model on held-out data."""


class Reconstruct(SpecModel):
    """Fit of each block's kept gate, up and down weights together to the dense block's output."""

    enabled: bool = True
    """Whether the reconstruction runs."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 60
    """Optimizer steps per block at most; a block stops early on held-out tokens."""
    batch_tokens: Annotated[int, Field(ge=2, le=65_536)] = 512
    """Tokens per step."""
    learning_rate: Annotated[str, DecimalBetween("0.0000001", "1")] = "0.001"
    """Adam's peak step size, with cosine decay."""


_LORA_RANK = "loraRank goes with weights LoRA only"


class FineTune(SpecModel):
    """Short fine-tuning of the sliced model with KL to the dense model."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("!has(self.loraRank) || (has(self.weights) && self.weights == 'LoRA')", _LORA_RANK)
        )
    )

    enabled: bool = False
    """Whether the fine-tuning runs. It takes far longer than the other parts."""
    weights: Literal["Down", "FFN", "All", "LoRA"] = "Down"
    """What is trained: the `down_proj` weights, the whole `FFN`, `All` weights but the vocabulary's
    embedding and head, or `LoRA` adapters of all linear layers in the blocks, which are merged into
    the checkpoint. A trained weight takes 20 bytes of memory in all."""
    lora_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """Rank of the LoRA adapters. Default: 16."""
    steps: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Optimizer steps."""
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 16
    """Conversations per step."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Conversations per forward pass; bounds memory and does not change the result."""
    learning_rate: Annotated[str, DecimalBetween("0.0000001", "1")] | None = None
    """Adam's peak step size, with cosine decay. Default: the one of three that lowers the
    divergence on held-out data most in a trial of a few steps."""
    evaluate_every: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Steps between two evaluations of the held-out loss."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Stop after this many evaluations without improvement; the best weights are kept."""

    @model_validator(mode="before")
    @classmethod
    def _default_rank(cls, given: object) -> object:
        """Give LoRA its default rank, so that equal specs are equal."""
        if not isinstance(given, dict) or given.get("weights") != "LoRA":
            return given
        return given if {"loraRank", "lora_rank"} & given.keys() else {**given, "loraRank": 16}

    @model_validator(mode="after")
    def _rank_of_lora(self) -> Self:
        if self.lora_rank is not None and self.weights != "LoRA":
            raise ValueError(_LORA_RANK)
        return self


class Recovery(SpecModel):
    """How the sliced model recovers the dense model's behaviour.

    Each part can be switched off. A part's result is used only if it lowers the divergence from the
    dense model on held-out data.
    """

    generic_percent: Annotated[int, Field(ge=0, le=90)] = 25
    """Weight of general instructions without the persona, in percent, so that general ability
    holds; the persona's answers have the rest. It is the same in every part and on held-out
    data."""
    refit: Refit = Refit()
    """Closed-form refit."""
    reconstruct: Reconstruct = Reconstruct()
    """Fit of each block to the dense block after the refit."""
    fine_tune: FineTune = FineTune()
    """Gradient fine-tuning of the whole model after the other parts."""
