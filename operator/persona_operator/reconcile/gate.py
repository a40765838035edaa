"""Whether an evaluation meets the gate."""

from dataclasses import dataclass

from persona_jobs.api import Gate
from persona_jobs.api.evaluation import Threshold
from persona_jobs.api.status import GateResult, MetricStatus, RevisionStatus


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

    A threshold whose measurement is missing or not trusted isn't met: such a model takes no
    traffic.
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
    metric = revision.metric(threshold.measured_as)
    measured = f"{threshold.name}: {threshold.measured_as} {_text(metric.number('value'))}"
    if metric.trusted is False:
        reason = f"the judge is not trusted: {metric.message}"
        return False, f"{measured} does not count, because {reason}"
    if threshold.min is not None or threshold.max is not None:
        return _within_limit(threshold, metric, measured)
    if threshold.max_decrease is not None:
        return _close_to_dense(threshold, metric, measured)
    return _in_proportion(threshold, metric, measured)


def _within_limit(threshold: Threshold, metric: MetricStatus, measured: str) -> tuple[bool, str]:
    """Compare the value, or the end of its interval, with `min` or `max`."""
    lowest = threshold.min is not None
    end = ("low" if lowest else "high") if threshold.whole_interval else "value"
    found, limit = metric.number(end), float(threshold.min or threshold.max or 0)
    met = found is not None and (found >= limit if lowest else found <= limit)
    if threshold.whole_interval:
        measured += f", at the {end} end of its interval {_text(found)},"
    bound = f"below min {threshold.min}" if lowest else f"above max {threshold.max}"
    return met, f"{measured} is {'not ' if met else ''}{bound}"


def _close_to_dense(threshold: Threshold, metric: MetricStatus, measured: str) -> tuple[bool, str]:
    """Compare the decrease below the dense model's value with `maxDecrease`."""
    value, dense = metric.number("value"), metric.number("dense")
    difference = metric.number("difference_low" if threshold.whole_interval else "difference")
    if difference is None and not threshold.whole_interval:
        difference = None if value is None or dense is None else value - dense
    decrease = None if difference is None else -difference
    met = decrease is not None and decrease <= float(threshold.max_decrease or 0)
    within = ", within the 95 % interval," if threshold.whole_interval else ""
    return met, (
        f"{measured} is{within} {_text(decrease)} below the dense model's {_text(dense)}, "
        f"{'not ' if met else ''}more than maxDecrease {threshold.max_decrease}"
    )


def _in_proportion(threshold: Threshold, metric: MetricStatus, measured: str) -> tuple[bool, str]:
    """Compare the value in percent of the dense model's with its bound."""
    value, dense = metric.number("value"), metric.number("dense")
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
