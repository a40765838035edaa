"""Whether an evaluation meets the gate."""

from dataclasses import dataclass

from persona_jobs.api import Gate
from persona_jobs.api.evaluation import Threshold
from persona_jobs.api.status import GateResult, RevisionStatus


@dataclass(frozen=True)
class GateCheck:
    """Whether the gate is met.

    Attributes:
        result: the result.
        message: the thresholds that aren't met, or all where they are, each with its figures.
    """

    result: GateResult
    message: str = ""


def check(gate: Gate | None, revision: RevisionStatus) -> GateCheck:
    """Compare a revision's measurements with the thresholds.

    A threshold whose measurement is missing isn't met: an unmeasured model takes no traffic.
    """
    if gate is None:
        return GateCheck("NotSet")
    checked = [_compare(item, revision) for item in gate.thresholds]
    missed = [text for met, text in checked if not met]
    if missed:
        return GateCheck("Failed", "; ".join(missed))
    return GateCheck("Passed", "; ".join(text for _, text in checked))


def _compare(threshold: Threshold, revision: RevisionStatus) -> tuple[bool, str]:
    """Return whether a threshold is met, and the figures that say so."""
    value, dense = revision.number(threshold.metric)
    measured = f"{threshold.name}: {threshold.metric} {_text(value)}"
    if threshold.min is not None:
        met = value is not None and value >= float(threshold.min)
        return met, f"{measured} is {'not ' if met else ''}below min {threshold.min}"
    if threshold.max is not None:
        met = value is not None and value <= float(threshold.max)
        return met, f"{measured} is {'not ' if met else ''}above max {threshold.max}"
    percent = None if value is None or not dense else 100 * value / dense
    if threshold.min_retention_percent is not None:
        met = percent is not None and percent >= threshold.min_retention_percent
        return met, (
            f"{measured} is {_text(percent)} % of the dense model's {_text(dense)}, "
            f"{'not ' if met else ''}below minRetentionPercent {threshold.min_retention_percent}"
        )
    limit = threshold.max_increase_percent or 0
    increase = None if percent is None else percent - 100
    met = increase is not None and increase <= limit
    return met, (
        f"{measured} is {_text(increase)} % above the dense model's {_text(dense)}, "
        f"{'not ' if met else ''}more than maxIncreasePercent {limit}"
    )


def _text(value: float | None) -> str:
    return "(not measured)" if value is None else f"{value:.6g}"
