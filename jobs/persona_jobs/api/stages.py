"""The stages of the pipeline: the one table that everything else derives from.

A further stage is one entry here and one module of the same name in `persona_jobs.stages`. The
plan, the content keys, the CRD's enum, the command line and the operator read this table.

`fields` is the written list of spec fields whose values enter the stage's content key. A field
that is unset is left out of the key, and so is one whose value is `neutral`: the behaviour from
before the field existed. So a field can be added without changing the key of any existing result.
Every other field of the spec must stand in `UNKEYED_FIELDS`, with the reason why it changes no
result.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

JsonScalar = str | int | bool | None


@dataclass(frozen=True)
class KeyField:
    """A spec field that enters a content key.

    Attributes:
        path: path below `spec`, such as `pruning.method`; `[]` stands for every item of a list.
        neutral: value that is left out of the key; None for a field that was there from the start.
        when: path and value of the field that this field goes with, or None; the value None stands
            for a field that is unset. In a list both are fields of the same item.
    """

    path: str
    neutral: JsonScalar = None
    when: tuple[str, JsonScalar] | None = None


@dataclass(frozen=True)
class OptionalInput:
    """A stage whose result is read only where a field of the spec has a value.

    Attributes:
        name: the stage.
        when: path and value of the field.
    """

    name: str
    when: tuple[str, JsonScalar]


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: its name, also that of its module.
        version: raised whenever the stage computes something else from the same values.
        inputs: stages whose results it reads, those that are planned.
        fields: spec fields that its result depends on, beside those of its inputs.
        resumable: whether an interrupted run saves a state and resumes from it.
        enabled_by: spec fields; the stage is planned when one of them is true or a list that is
            not empty, or always when there are none.
        optional_inputs: more stages whose results it reads with some settings.
        serving_waits: whether a revision takes traffic only once the stage has succeeded.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    fields: tuple[KeyField, ...]
    resumable: bool = False
    enabled_by: tuple[str, ...] = ()
    optional_inputs: tuple[OptionalInput, ...] = ()
    serving_waits: bool = True


def _fields(*paths: str, when: tuple[str, JsonScalar] | None = None) -> tuple[KeyField, ...]:
    return tuple(KeyField(path, when=when) for path in paths)


_BASE_MODEL = _fields("baseModel.uri", "baseModel.revision")
_PERSONA = _fields("persona.text", "persona.card.uri", "persona.card.revision", "persona.card.user")
_SEED = _fields("seed")
# Settings with which the mask stage ranks channels by optimal brain surgeon.
_SURGEON = (
    ("pruning.method", "OptimalBrainSurgeon"),
    ("pruning.straightThrough.initialization", "OptimalBrainSurgeon"),
)

STAGES: tuple[Stage, ...] = (
    Stage(
        name="reference",
        version=1,
        inputs=(),
        resumable=True,
        fields=(
            *_BASE_MODEL,
            *_fields(
                "instructions.uri",
                "instructions.revision",
                "instructions.split",
                "instructions.columns.instruction",
                "instructions.columns.input",
                "instructions.columns.output",
                "instructions.maxSamples",
                "referencePersonas.uri",
                "referencePersonas.revision",
                "referencePersonas.count",
                "scoring.firstBlock",
                "scoring.lastBlock",
                "compute.dtype",
            ),
        ),
    ),
    Stage(
        name="score",
        version=1,
        inputs=("reference",),
        resumable=True,
        fields=(*_PERSONA, *_fields("scoring.keepPercent")),
    ),
    Stage(
        name="rewrite",
        version=1,
        inputs=("score",),
        resumable=True,
        fields=(
            *_PERSONA,
            *_SEED,
            *_fields(
                "teacher.openAI.baseURL",
                "teacher.openAI.model",
                when=("teacher.openAI.identity", None),
            ),
            *_fields(
                "teacher.openAI.identity",
                "teacher.strategy",
                "teacher.temperature",
                "teacher.maxTokens",
                "teacher.overlong",
                "teacher.samplesPerQuery",
                "dataset.validationPercent",
                "dataset.testPercent",
                "dataset.maxTokens",
                "evaluation.questionFiles[].uri",
                "evaluation.questionFiles[].revision",
                "persona.examples[].turns[].query",
                "persona.examples[].turns[].answer",
            ),
        ),
    ),
    Stage(
        name="mask",
        version=1,
        inputs=("rewrite",),
        optional_inputs=tuple(OptionalInput("score", when) for when in _SURGEON),
        resumable=True,
        fields=(
            *_SEED,
            *_fields(
                "pruning.sparsityPercent",
                "pruning.alignment",
                "pruning.method",
            ),
            *_fields(
                "pruning.straightThrough.initialization",
                "pruning.straightThrough.objective",
                "pruning.straightThrough.steps",
                "pruning.straightThrough.batchSize",
                "pruning.straightThrough.learningRate",
                "pruning.straightThrough.beta2",
                "pruning.straightThrough.evaluateEvery",
                "pruning.straightThrough.patience",
                when=("pruning.method", "StraightThrough"),
            ),
            KeyField(
                "pruning.straightThrough.scales",
                neutral=False,
                when=("pruning.method", "StraightThrough"),
            ),
            *_fields(
                "pruning.optimalBrainSurgeon.ridge",
                when=("pruning.method", "OptimalBrainSurgeon"),
            ),
            *(KeyField("recovery.genericPercent", when=when) for when in _SURGEON),
        ),
    ),
    Stage(
        name="recover",
        version=2,
        inputs=("mask", "rewrite", "score"),
        resumable=True,
        enabled_by=(
            "recovery.refit.enabled",
            "recovery.reconstruct.enabled",
            "recovery.fineTune.enabled",
        ),
        fields=(
            *_SEED,
            *_fields(
                "recovery.genericPercent", "recovery.refit.enabled", "recovery.fineTune.enabled"
            ),
            *_fields("recovery.refit.ridge", when=("recovery.refit.enabled", True)),
            KeyField("recovery.reconstruct.enabled", neutral=False),
            *_fields(
                "recovery.reconstruct.steps",
                "recovery.reconstruct.batchTokens",
                "recovery.reconstruct.learningRate",
                when=("recovery.reconstruct.enabled", True),
            ),
            *_fields(
                "recovery.fineTune.steps",
                "recovery.fineTune.batchSize",
                "recovery.fineTune.learningRate",
                "recovery.fineTune.evaluateEvery",
                "recovery.fineTune.patience",
                when=("recovery.fineTune.enabled", True),
            ),
            KeyField(
                "recovery.fineTune.weights",
                neutral="Down",
                when=("recovery.fineTune.enabled", True),
            ),
            KeyField("recovery.fineTune.loraRank", when=("recovery.fineTune.weights", "LoRA")),
        ),
    ),
    Stage(
        name="slice",
        version=1,
        inputs=("mask", "recover"),
        fields=_PERSONA,
    ),
    Stage(
        name="evaluate",
        version=3,
        inputs=("slice", "mask", "recover", "rewrite", "score", "reference"),
        resumable=True,
        fields=(
            *_PERSONA,
            *_SEED,
            *_fields(
                "evaluation.questionFiles[].uri",
                "evaluation.questionFiles[].revision",
                "evaluation.maxQueries",
                "evaluation.shownQuestions",
                "evaluation.maxAnswerTokens",
                "evaluation.genericSamples",
                "evaluation.bootstrapSamples",
                "evaluation.baseline",
                "evaluation.judges[].name",
                "evaluation.judges[].openAI.identity",
                "evaluation.judges[].maxTokens",
                "evaluation.judges[].maxQuestions",
            ),
            *_fields(
                "evaluation.judges[].openAI.baseURL",
                "evaluation.judges[].openAI.model",
                when=("evaluation.judges[].openAI.identity", None),
            ),
            KeyField("evaluation.samplesPerQuestion", neutral=1),
        ),
    ),
    Stage(
        name="export",
        version=1,
        inputs=("slice", "rewrite"),
        enabled_by=("exports",),
        serving_waits=False,
        fields=(*_PERSONA, *_fields("exports[].format", "exports[].quantization")),
    ),
)

STAGE_NAMES: tuple[str, ...] = tuple(stage.name for stage in STAGES)
RESUMABLE_STAGES: frozenset[str] = frozenset(stage.name for stage in STAGES if stage.resumable)

# Spec fields that enter no content key, by path (a whole section where it ends in a dot), and why
# they change no result.
UNKEYED_FIELDS: dict[str, str] = {
    "recipeRef.": "replaced by the recipe's fields before planning",
    "persona.configMapRef.": "replaced by the text that it names before planning",
    **{
        f"{source}.{field}": reason
        for source in (
            "persona.card",
            "baseModel",
            "instructions",
            "referencePersonas",
            "evaluation.questionFiles",
        )
        for field, reason in {
            "endpoint": "where the content comes from; the revision says which content it is",
            "credentialsSecretRef.": "gives access to the content; does not choose it",
        }.items()
    },
    **{
        f"{endpoint}.{field}": reason
        for endpoint in ("teacher.openAI", "evaluation.judges.openAI")
        for field, reason in {
            "apiKeySecretRef.": "gives access to the model; does not choose it",
            "maxConcurrency": "how the endpoint is called, not what it answers",
            "timeoutSeconds": "how the endpoint is called, not what it answers",
            "maxRetries": "how the endpoint is called, not what it answers",
        }.items()
    },
    "teacher.minYieldPercent": "decides whether the stage fails, not what it writes",
    "pruning.straightThrough.microBatchSize": "splits a step's forward passes, same gradient",
    "recovery.fineTune.microBatchSize": "splits a step's forward passes, same gradient",
    "evaluation.gate.": "reads the evaluation, is no part of it",
    "serving.": "how the finished checkpoint is served",
    "storage.": "where results are kept",
    "compute.device": "results agree within rounding on every device",
    "execution.": "resources of the stages' pods",
    "suspend": "when work starts",
    "artifactPolicy": "what happens on deletion",
}


def stage(name: str) -> Stage:
    """Return the stage called `name`.

    Raises:
        KeyError: there is no such stage.
    """
    for entry in STAGES:
        if entry.name == name:
            return entry
    raise KeyError(name)


def _known(name: str) -> str:
    if name not in STAGE_NAMES:
        raise ValueError(f"must be one of {', '.join(STAGE_NAMES)}")
    return name


def _enum(schema: dict[str, Any]) -> None:
    schema["enum"] = list(STAGE_NAMES)


StageName = Annotated[str, AfterValidator(_known), Field(json_schema_extra=_enum)]
