"""Figures for people: the printer columns of `kubectl get personas`."""

from collections.abc import Callable
from dataclasses import dataclass

from persona_jobs.api.status import MetricStatus, RevisionStatus

_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Summary:
    """Figures of a revision, each beside the dense model's, and what the judges say."""

    size: str | None = None
    score: str | None = None
    judges: str | None = None
    latency: str | None = None


def summarize_revision(revision: RevisionStatus | None) -> Summary:
    """Return the printer columns of a revision."""
    if revision is None:
        return Summary()
    score = revision.metric("personaScore")
    interval = ""
    if score.low is not None and score.high is not None:
        interval = f" [{float(score.low):.0f}-{float(score.high):.0f}]"
    return Summary(
        size=_pair(revision, "checkpointBytes", _bytes),
        score=_pair(revision, "personaScore", lambda value: f"{value:.1f}", interval),
        judges="; ".join(map(_judged, revision.judge_scores)) or None,
        latency=_pair(revision, "decodeTokensPerSecond", _milliseconds),
    )


def _pair(
    revision: RevisionStatus, name: str, shown: Callable[[float], str], suffix: str = ""
) -> str | None:
    value, dense = revision.number(name)
    if value is None:
        return None
    text = shown(value) + suffix
    return text if dense is None else f"{text} (dense {shown(dense)})"


def _judged(judge: MetricStatus) -> str:
    """Return a judge's score with its interval, the scored answers, and whether it is trusted."""
    value, low, high = (judge.number(name) for name in ("value", "low", "high"))
    shown = "no score" if value is None else f"{value:.1f}"
    if low is not None and high is not None:
        shown += f" [{low:.0f}-{high:.0f}]"
    trust = "" if judge.trusted else ", untrusted"
    return f"{judge.judge} {shown} (n={judge.count or 0}{trust})"


def _bytes(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"


def _milliseconds(tokens_per_second: float) -> str:
    return f"{1000 / tokens_per_second:.3g} ms/token" if tokens_per_second > 0 else "unknown"
