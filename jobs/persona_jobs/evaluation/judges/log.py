"""Judges' verdicts as a file, so that no answer is judged twice."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ...dataset import write_jsonl
from .verdict import Mode, Outcome, Verdict

FILE_NAME = "verdicts.jsonl"


class LoggedVerdict(BaseModel):
    """One line.

    Attributes:
        request: the judge and the digest of the request.
        text: the judge's answer as it came.
        outcome: see `Verdict`.
        score: see `Verdict`.
        mode: see `Verdict`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    request: str
    text: str
    outcome: Outcome
    score: float | None = None
    mode: Mode | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict alone."""
        return Verdict(self.outcome, self.score, self.mode)


def save(directory: Path, verdicts: Mapping[str, LoggedVerdict]) -> None:
    """Write all verdicts except failed ones, which are worth another attempt.

    Args:
        directory: where the log is; it is made if it is missing.
        verdicts: the verdicts by judge and request.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = [line for line in verdicts.values() if line.outcome != "failed"]
    write_jsonl(directory / FILE_NAME, kept)


def load(directory: Path) -> dict[str, LoggedVerdict]:
    """Return the saved verdicts by judge and request; malformed lines are left out."""
    verdicts = {}
    with (directory / FILE_NAME).open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = LoggedVerdict.model_validate_json(text)
            except ValidationError:
                continue
            verdicts[line.request] = line
    return verdicts
