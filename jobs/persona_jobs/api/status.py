"""Status of a PersonaModel. Numbers that may have fractions are strings (Kubernetes API types).

A status is read tolerantly: it may come from a later version of the operator, or from an earlier
one. So no field has an enumeration, almost none is required, and fields that are not known here
are carried along, so that an operator that is rolled back and forth loses nothing.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

# What this version writes; what it reads may be anything.
ConditionType = Literal["Available", "Ready", "Reconciling", "Stalled"]
JUDGE_METRIC = "judgeScore/"
"""What the name of a judge's score begins with, before the name of the judge."""
GateResult = Literal["NotSet", "Passed", "Failed"]


class StatusModel(BaseModel):
    """Base of all status objects. Unknown fields are kept: another version may have set them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Condition(StatusModel):
    """One aspect of the state (Kubernetes API conventions, `metav1.Condition`)."""

    type: str
    """`Available`, `Ready`, `Reconciling` or `Stalled`."""
    status: str
    """Whether the condition holds."""
    observed_generation: int = 0
    """Generation of the spec that the condition describes."""
    last_transition_time: str = ""
    """When `status` last changed (RFC 3339)."""
    reason: str = ""
    """One CamelCase word for programs and for the REASON column."""
    message: str = ""
    """One sentence for people: what is waited for, or what is wrong and how to fix it."""


class StageStatus(StatusModel):
    """State of one pipeline stage for the current spec."""

    name: str
    """Stage."""
    key: str = ""
    """Content key (64 hexadecimal digits): equal keys mean equal results."""
    state: str = "Pending"
    """State of the stage."""
    reused: bool = False
    """True when its result was already in the store."""
    attempts: int = 0
    """Attempts so far."""
    failures: int = 0
    """Failed attempts since the spec or the retry annotation last changed."""
    job: str | None = None
    """Name of the Job of the running or last attempt."""
    started_at: str | None = None
    """When the last attempt started (RFC 3339)."""
    finished_at: str | None = None
    """When the stage ended (RFC 3339)."""
    retry_at: str | None = None
    """When the next attempt starts (RFC 3339)."""
    requested: str | None = None
    """Hash of what the last attempt depends on. A failed stage is tried again when it changes."""
    lost_at: str | None = None
    """When its result was found missing from the store, until it is made again (RFC 3339)."""
    reason: str | None = None
    """Why it is in this state, one CamelCase word."""
    message: str | None = None
    """What is waited for or what went wrong."""
    metrics: dict[str, str] = {}
    """Key metrics of the result."""


class SourceStatus(StatusModel):
    """What one source of the spec was resolved to."""

    name: str
    """Path of the source below `spec`, such as `baseModel`."""
    uri: str = ""
    """Where the source is."""
    revision: str | None = None
    """Commit, or digest of the content, that the stages read."""


class MetricStatus(StatusModel):
    """One measurement of a revision."""

    name: str
    """Name of the metric, such as `personaScore`; thresholds of the gate refer to it."""
    value: str | None = None
    """Value of the served variant."""
    low: str | None = None
    """Lower end of the 95 % interval."""
    high: str | None = None
    """Upper end of the 95 % interval."""
    dense: str | None = None
    """Value of the dense model."""
    difference: str | None = None
    """Value minus that of the dense model, paired by question."""
    difference_low: str | None = None
    """Lower end of the difference's 95 % interval."""
    difference_high: str | None = None
    """Upper end of the difference's 95 % interval."""
    count: int | None = None
    """Answers with a score, where a judge gave them."""
    trusted: bool | None = None
    """Whether the judge tells good from bad answers of this persona."""
    message: str | None = None
    """Why the judge is not trusted."""

    @property
    def judge(self) -> str | None:
        """Name of the judge whose score it is, None for another metric."""
        name = self.name.removeprefix(JUDGE_METRIC)
        return name if name != self.name else None

    def number(self, field: str) -> float | None:
        """Return the figure in a field, None where there is none."""
        return _number(getattr(self, field))


class ArtifactStatus(StatusModel):
    """One result in the store that belongs to a revision."""

    name: str
    """What it is: `checkpoint`, `evaluation` or `export`."""
    stage: str = ""
    """Stage that made it."""
    key: str = ""
    """Content key: it lies in the store under `stages/STAGE/KEY`."""


class RevisionStatus(StatusModel):
    """One finished model of this persona."""

    id: str
    """First 8 digits of the slice stage's content key."""
    finished_at: str = ""
    """When its evaluation ended (RFC 3339)."""
    sparsity_percent: int | None = None
    """Sparsity it was made with."""
    gate: str = "NotSet"
    """Whether it passed the gate."""
    message: str = ""
    """The gate's thresholds with the figures: those that failed, or all where none did."""
    store: str | None = None
    """Store that holds it."""
    metrics: list[MetricStatus] = []
    """Measurements of the evaluation, each beside the dense model's."""
    artifacts: list[ArtifactStatus] = []
    """Its results in the store."""

    @property
    def slice_key(self) -> str:
        """Content key of the checkpoint, empty where it isn't known."""
        return self._key("checkpoint")

    @property
    def evaluate_key(self) -> str:
        """Content key of the evaluation, empty where it isn't known."""
        return self._key("evaluation")

    def metric(self, name: str) -> MetricStatus:
        """Return the metric called `name`; its values are None where it wasn't measured."""
        return next((item for item in self.metrics if item.name == name), MetricStatus(name=name))

    @property
    def judge_scores(self) -> list[MetricStatus]:
        """The judges' scores."""
        return [metric for metric in self.metrics if metric.judge is not None]

    def number(self, name: str) -> tuple[float | None, float | None]:
        """Return a metric's value and the dense model's, None where not measured."""
        metric = self.metric(name)
        return metric.number("value"), metric.number("dense")

    def _key(self, artifact: str) -> str:
        return next((item.key for item in self.artifacts if item.name == artifact), "")


class FailedRollout(StatusModel):
    """A roll-out that was taken back because its pods didn't become ready."""

    revision: str = ""
    """Revision that was to take traffic."""
    requested: str = ""
    """Hash of what the user asked for. It isn't tried again while this stays the same."""
    message: str = ""
    """Why the pods didn't become ready."""


class ServingStatus(StatusModel):
    """State of the inference Deployment."""

    revision: str | None = None
    """Revision that takes traffic."""
    engine: str | None = None
    """Engine that serves it."""
    replicas: int = 0
    """Pods of the Deployment."""
    ready_replicas: int = 0
    """Pods that take traffic."""
    selector: str = ""
    """Label selector of the pods (scale subresource)."""
    url: str | None = None
    """Base URL inside the cluster; append `/v1/chat/completions`."""
    requested: str | None = None
    """Hash of what the user asked for with the pods that took traffic last. While it stays the
    same, these pods stay, whatever the administrator changes."""
    template: str | None = None
    """Template of the pods that took traffic last, as JSON."""
    rollout_waiting_since: str | None = None
    """Since when new pods wait for those of other PersonaModels to be replaced."""
    failed_rollout: FailedRollout | None = None
    """The roll-out that was taken back, until the PersonaModel or its retry annotation changes."""


class PersonaModelStatus(StatusModel):
    """What the operator observed."""

    observed_generation: int = 0
    """Generation of the spec that the status is about."""
    conditions: list[Condition] = []
    """`Available` (a revision takes traffic), `Ready` (the spec is reached), `Reconciling` and
    `Stalled`."""
    resolution: StageStatus | None = None
    """State of the Job that looks up what the sources hold, where the spec doesn't pin them all."""
    sources: list[SourceStatus] = []
    """What each source was resolved to. It stays until the spec or the retry annotation changes,
    whatever happens to the source."""
    stages: list[StageStatus] = []
    """Stages of the current spec, in order."""
    revision: str | None = None
    """Revision that the current spec leads to."""
    revisions: list[RevisionStatus] = []
    """The newest finished models, newest first. `spec.serving.revision` may name one."""
    serving: ServingStatus | None = None
    """State of the inference Deployment."""
    phase: str | None = None
    """The state in one word, for people: the reason of the condition `Ready`."""
    base_model: str | None = None
    """URI of the base model, resolved."""
    sparsity_percent: int | None = None
    """Sparsity that the current spec leads to, resolved."""
    size: str | None = None
    """Size of the served checkpoint against the dense one, for people."""
    score: str | None = None
    """Persona score of the served revision and of the dense model, for people."""
    judges: str | None = None
    """Each judge's score of the served revision, with its interval and number of scored answers,
    for people."""
    latency: str | None = None
    """Decode time per token of the served revision and of the dense model, for people."""
    url: str | None = None
    """Base URL of the served persona."""
    written_hash: str | None = None
    """Hash of the fields that decide results, as written in the PersonaModel and its recipe. While
    it stays the same, finished stages stay finished, whatever the operator's version."""
    last_handled_retry: str | None = None
    """Value of the retry annotation that was last acted on."""
    store: str | None = None
    """Store that the stages' results are in."""
    finished_keys: list[str] = []
    """`STAGE/KEY` of the finished stages, those of earlier specs included, newest first. None of
    them is run again."""

    @property
    def entries(self) -> list[StageStatus]:
        """Entries of all that Jobs do: the lookup of the sources, and the stages."""
        return [*([self.resolution] if self.resolution else []), *self.stages]

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a status of whatever version; single values that make no sense are left out."""
        document = copy.deepcopy(dict(raw))
        while True:
            try:
                return cls.model_validate(document)
            except ValidationError as error:
                item = error.errors(include_url=False, include_input=False)[0]
                path = item["loc"][:-1] if item["type"] == "missing" else item["loc"]
                _remove(document, path)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _remove(document: Any, path: tuple[int | str, ...]) -> None:
    """Remove the value at `path`, or the nearest one around it."""
    *parents, last = path
    for part in parents:
        document = document[part]
    del document[last]
