"""Whether an evaluation meets the gate."""

from dataclasses import dataclass

from persona_jobs.api import Gate
from persona_jobs.api.evaluation import Threshold
from persona_jobs.api.status import GateResult, RevisionStatus


@dataclass(frozen=True)
class GateCheck:
    """Whether the gate is met, and which thresholds aren't."""

    result: GateResult
    message: str = ""


def check(gate: Gate | None, revision: RevisionStatus) -> GateCheck:
    """Compare a revision's measurements with the thresholds.

    A threshold whose measurement is missing isn't met: an unmeasured model takes no traffic.
    """
    if gate is None:
        return GateCheck("NotSet")
    failed = [text for item in gate.thresholds if (text := _missed(item, revision))]
    return GateCheck("Failed", "; ".join(failed)) if failed else GateCheck("Passed")


def _missed(threshold: Threshold, revision: RevisionStatus) -> str:
    """Return why a threshold isn't met, an empty string where it is."""
    value, dense = revision.number(threshold.metric)
    measured = f"{threshold.name}: {threshold.metric} {_text(value)}"
    if threshold.min is not None:
        met = value is not None and value >= float(threshold.min)
        return "" if met else f"{measured} is below min {threshold.min}"
    if threshold.max is not None:
        met = value is not None and value <= float(threshold.max)
        return "" if met else f"{measured} is above max {threshold.max}"
    percent = None if value is None or not dense else 100 * value / dense
    if threshold.min_retention_percent is not None:
        if percent is not None and percent >= threshold.min_retention_percent:
            return ""
        return (
            f"{measured} is {_text(percent)} % of the dense model's {_text(dense)}, below "
            f"minRetentionPercent {threshold.min_retention_percent}"
        )
    limit = threshold.max_increase_percent or 0
    if percent is not None and percent - 100 <= limit:
        return ""
    increase = None if percent is None else percent - 100
    return (
        f"{measured} is {_text(increase)} % above the dense model's {_text(dense)}, more than "
        f"maxIncreasePercent {limit}"
    )


def _text(value: float | None) -> str:
    return "(not measured)" if value is None else f"{value:.6g}"
