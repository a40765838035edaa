"""Figures for people: the printer columns of `kubectl get personas`."""

from dataclasses import dataclass

from persona_jobs.api.status import RevisionStatus

_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Summary:
    """Size, persona score and decode latency of a revision, each beside the dense model's."""

    size: str | None = None
    score: str | None = None
    latency: str | None = None


def summarize_revision(revision: RevisionStatus | None) -> Summary:
    """Return the printer columns of a revision."""
    if revision is None:
        return Summary()
    return Summary(
        size=_pair(_bytes(revision.checkpoint_bytes), _bytes(revision.dense_checkpoint_bytes)),
        score=_pair(_decimal(revision.persona_score), _decimal(revision.dense_persona_score)),
        latency=_pair(
            _milliseconds(revision.decode_tokens_per_second),
            _milliseconds(revision.dense_decode_tokens_per_second),
        ),
    )


def _pair(value: str | None, dense: str | None) -> str | None:
    if value is None:
        return None
    return value if dense is None else f"{value} (dense {dense})"


def _bytes(count: int | None) -> str | None:
    if count is None:
        return None
    size = float(count)
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"


def _decimal(text: str | None) -> str | None:
    return None if text is None else f"{float(text):.1f}"


def _milliseconds(tokens_per_second: str | None) -> str | None:
    if tokens_per_second is None or float(tokens_per_second) <= 0:
        return None
    return f"{1000 / float(tokens_per_second):.3g} ms/token"
