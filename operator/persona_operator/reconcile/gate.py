"""Whether an evaluation meets the gate."""

from dataclasses import dataclass

from persona_jobs.api import Gate
from persona_jobs.api.status import GateResult, RevisionStatus


@dataclass(frozen=True)
class GateCheck:
    """Whether the gate is met, and which thresholds aren't."""

    result: GateResult
    message: str = ""


def check(gate: Gate | None, revision: RevisionStatus) -> GateCheck:
    """Compare a revision's measurements with the thresholds that are set.

    A threshold whose measurement is missing isn't met: an unmeasured model takes no traffic.
    """
    if gate is None:
        return GateCheck("NotSet")
    score, dense = _number(revision.persona_score), _number(revision.dense_persona_score)
    loss, dense_loss = _number(revision.generic_loss), _number(revision.dense_generic_loss)
    failed = []
    if gate.min_persona_score is not None and (score is None or score < gate.min_persona_score):
        failed.append(
            f"persona score {_text(score)} is below minPersonaScore {gate.min_persona_score}"
        )
    retention = gate.min_persona_score_retention_percent
    if retention is not None:
        kept = None if score is None or not dense else 100 * score / dense
        if kept is None or kept < retention:
            failed.append(
                f"persona score {_text(score)} is {_text(kept)} % of the dense model's "
                f"{_text(dense)}, below minPersonaScoreRetentionPercent {retention}"
            )
    limit = gate.max_generic_loss_increase_percent
    if limit is not None:
        increase = None if loss is None or not dense_loss else 100 * (loss / dense_loss - 1)
        if increase is None or increase > limit:
            failed.append(
                f"generic loss {_text(loss, 3)} is {_text(increase)} % above the dense model's "
                f"{_text(dense_loss, 3)}, more than maxGenericLossIncreasePercent {limit}"
            )
    return GateCheck("Failed", "; ".join(failed)) if failed else GateCheck("Passed")


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: float | None, digits: int = 1) -> str:
    return "(not measured)" if value is None else f"{value:.{digits}f}"
