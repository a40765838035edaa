"""Prometheus metrics of the operator, in a registry of their own. docs/metrics.md lists them."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from persona_jobs.api.status import PersonaModelStatus, RevisionStatus, StageStatus

from .object_cache import PersonaKey
from .reconcile.times import parse_time

_PREFIX = "persona_pruner"
_STAGE_SECONDS = (5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_RECONCILE_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
STATES = ("Ready", "Reconciling", "Stalled", "Suspended")


class OperatorMetrics:
    """All metrics; per-persona series disappear with their persona.

    Args:
        event_ages: returns the seconds since the last watch event by kind at each scrape.
        queued: returns how many PersonaModels wait for the reconciler at each scrape.
    """

    def __init__(
        self,
        event_ages: Callable[[], Mapping[str, float]] = dict,
        queued: Callable[[], int] = int,
    ) -> None:
        self.registry = CollectorRegistry()
        self._personas: dict[PersonaKey, PersonaModelStatus] = {}
        self.reconcile_seconds = Histogram(
            f"{_PREFIX}_reconcile_duration_seconds",
            "Duration of one reconciliation.",
            buckets=_RECONCILE_SECONDS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            f"{_PREFIX}_reconcile_errors",
            "Failed reconciliations by kind of error.",
            ["error"],
            registry=self.registry,
        )
        self.store_errors = Counter(
            f"{_PREFIX}_store_errors",
            "Lookups in the artifact store that failed.",
            registry=self.registry,
        )
        self._requests = Counter(
            f"{_PREFIX}_api_requests",
            "Requests of the reconciler to the API server; code 0: no answer.",
            ["method", "resource", "code"],
            registry=self.registry,
        )
        self._stage_seconds = Histogram(
            f"{_PREFIX}_stage_duration_seconds",
            "Duration of ended stage attempts.",
            ["stage", "outcome"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self._stages = Counter(
            f"{_PREFIX}_stage_attempts",
            "Ended stage attempts; results found in the store count as reused.",
            ["stage", "outcome"],
            registry=self.registry,
        )
        self.healthy = Gauge(
            f"{_PREFIX}_watch_healthy",
            "1 while the watches deliver every known change, 0 once one has stalled.",
            registry=self.registry,
        )
        self.healthy.set(1)
        self.profiles_valid = Gauge(
            f"{_PREFIX}_profiles_valid",
            "1 while the file with the resource profiles is valid, 0 while the former ones stay.",
            registry=self.registry,
        )
        self.profiles_valid.set(1)
        self.registry.register(_PersonaCollector(self._personas))
        self.registry.register(_EventAgeCollector(event_ages))
        Gauge(
            f"{_PREFIX}_reconcile_queue_length",
            "PersonaModels that wait for the reconciler.",
            registry=self.registry,
        ).set_function(queued)
        # CPU, memory, open files and start time, with the names that every exporter uses.
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)

    def request(self, method: str, resource: str, status: int) -> None:
        """Count one request to the API server."""
        self._requests.labels(method, resource, str(status)).inc()

    def observe(
        self, persona: PersonaKey, old: PersonaModelStatus, new: PersonaModelStatus
    ) -> None:
        """Record a persona's new status; each ended attempt is counted once."""
        self._personas[persona] = new
        before = {(item.name, item.key): item for item in old.entries}
        for stage in new.entries:
            self._ended(before.get((stage.name, stage.key)), stage)

    def forget(self, persona: PersonaKey) -> None:
        """Remove the series of a deleted persona."""
        self._personas.pop(persona, None)

    def _ended(self, old: StageStatus | None, new: StageStatus) -> None:
        outcome = {"Succeeded": "succeeded", "Failed": "failed", "WaitingForRetry": "retried"}.get(
            new.state
        )
        same = old is not None and (old.state, old.attempts) == (new.state, new.attempts)
        if outcome is None or same:
            return
        if new.reused:
            self._stages.labels(new.name, "reused").inc()
            return
        self._stages.labels(new.name, outcome).inc()
        if new.started_at and new.finished_at:
            seconds = (parse_time(new.finished_at) - parse_time(new.started_at)).total_seconds()
            self._stage_seconds.labels(new.name, outcome).observe(max(seconds, 0.0))


class _PersonaCollector(Collector):
    """Builds the per-persona series at each scrape from the newest statuses."""

    def __init__(self, personas: Mapping[PersonaKey, PersonaModelStatus]) -> None:
        self._personas = personas

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        personas = dict(self._personas)
        states = Count(_state(status) for status in personas.values())
        family = GaugeMetricFamily(
            f"{_PREFIX}_personas", "PersonaModels by state.", labels=["state"]
        )
        for state in STATES:
            family.add_metric([state], states[state])
        yield family
        yield _conditions(personas)
        yield _gates(personas)
        yield _unfinished_stages(personas)
        yield from _judges(personas)
        for name, help_text, metric, convert in _PERSONA_METRICS:
            family = GaugeMetricFamily(
                f"{_PREFIX}_{name}", help_text, labels=["namespace", "persona", "variant"]
            )
            for key, status in personas.items():
                revision = _shown(status)
                if revision is None:
                    continue
                for variant, value in zip(
                    ("served", "dense"), revision.number(metric), strict=True
                ):
                    converted = None if value is None else convert(value)
                    if converted is not None:
                        family.add_metric([*key, variant], converted)
            yield family


def _conditions(personas: Mapping[PersonaKey, PersonaModelStatus]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}_condition",
        "Always 1: the status and reason of each condition of a PersonaModel.",
        labels=["namespace", "persona", "type", "status", "reason"],
    )
    for key, status in personas.items():
        for item in status.conditions:
            family.add_metric([*key, item.type, item.status, item.reason], 1)
    return family


def _judges(personas: Mapping[PersonaKey, PersonaModelStatus]) -> Iterable[Metric]:
    labels = ["namespace", "persona", "judge"]
    scores = GaugeMetricFamily(
        f"{_PREFIX}_judge_score",
        "A judge's score, 0 to 100, where an answer without a score counts as 0.",
        labels=[*labels, "variant"],
    )
    trust = GaugeMetricFamily(
        f"{_PREFIX}_judge_trusted",
        "1 where a judge tells good from bad answers of the persona, 0 where it does not.",
        labels=labels,
    )
    for key, status in personas.items():
        revision = _shown(status)
        for judge in revision.judge_scores if revision else ():
            named = [*key, judge.judge or ""]
            trust.add_metric(named, float(judge.trusted is True))
            for variant, field in (("served", "value"), ("dense", "dense")):
                value = judge.number(field)
                if value is not None:
                    scores.add_metric([*named, variant], value)
    yield scores
    yield trust


def _gates(personas: Mapping[PersonaKey, PersonaModelStatus]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}_gate_passed",
        "1 where the newest revision passed its gate, 0 where it failed.",
        labels=["namespace", "persona"],
    )
    for key, status in personas.items():
        gate = status.revisions[0].gate if status.revisions else "NotSet"
        if gate in ("Passed", "Failed"):
            family.add_metric([*key], float(gate == "Passed"))
    return family


def _unfinished_stages(personas: Mapping[PersonaKey, PersonaModelStatus]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}_unfinished_stages",
        "Stages that have begun and not ended, by state and reason.",
        labels=["stage", "state", "reason"],
    )
    counts: Count[tuple[str, str, str]] = Count()
    for status in personas.values():
        for stage in status.entries:
            if stage.state != "Succeeded" and (stage.job or stage.reason):
                counts[stage.name, stage.state, stage.reason or ""] += 1
    for labels, count in sorted(counts.items()):
        family.add_metric([*labels], count)
    return family


class _EventAgeCollector(Collector):
    """Builds the event ages at each scrape."""

    def __init__(self, event_ages: Callable[[], Mapping[str, float]]) -> None:
        self._event_ages = event_ages

    def collect(self) -> Iterable[Metric]:
        """Yield the metric family."""
        family = GaugeMetricFamily(
            f"{_PREFIX}_watch_event_age_seconds",
            "Time since a watch last delivered anything.",
            labels=["kind"],
        )
        for kind, age in self._event_ages().items():
            family.add_metric([kind], age)
        yield family


def _value(value: float) -> float | None:
    return value


def _per_token(tokens_per_second: float) -> float | None:
    return 1 / tokens_per_second if tokens_per_second > 0 else None


# Name of the series, its help text, metric of the revision, and how to convert a value.
_PERSONA_METRICS: tuple[tuple[str, str, str, Callable[[float], float | None]], ...] = (
    ("checkpoint_bytes", "Size of the checkpoint.", "checkpointBytes", _value),
    ("parameters", "Number of weights.", "parameters", _value),
    ("persona_score", "Persona score of the evaluation, 0 to 100.", "personaScore", _value),
    (
        "generic_loss",
        "Held-out loss on general instructions, in nats per token.",
        "genericLoss",
        _value,
    ),
    (
        "prefill_seconds_per_token",
        "Time per prompt token in the evaluation.",
        "prefillTokensPerSecond",
        _per_token,
    ),
    (
        "decode_seconds_per_token",
        "Time per generated token in the evaluation, batch of one.",
        "decodeTokensPerSecond",
        _per_token,
    ),
)


def _shown(status: PersonaModelStatus) -> RevisionStatus | None:
    """Return the served revision, else the newest one."""
    served = status.serving.revision if status.serving else None
    found = next((item for item in status.revisions if item.id == served), None)
    return found or (status.revisions[0] if status.revisions else None)


def _state(status: PersonaModelStatus) -> str:
    conditions = {item.type: item.status for item in status.conditions}
    if conditions.get("Ready") == "True":
        return "Ready"
    if conditions.get("Stalled") == "True":
        return "Stalled"
    return "Reconciling" if conditions.get("Reconciling") == "True" else "Suspended"
