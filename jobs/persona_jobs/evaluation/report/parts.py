"""Parts of the report made from the measurements and from other stages' files. No torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from ...dataset import ScoredQuery
from ...pipeline.results import Variant
from . import Answer, RankedQuery, Ranking, Sample

SHOWN_QUERIES = 8
SHOWN_SAMPLES = 8


class SampleLine(BaseModel):
    """One line of `samples.jsonl`.

    Attributes:
        query: the question.
        source: where it is from.
        answers: text by variant; the masked model's are the sliced one's.
        posteriors: probability, 0 to 1, that the target persona gave the answer, by variant.
        losses: the answer's loss under the dense model with the persona's prompt, nats a token, by
            variant; None for an empty answer.
        finished: whether the answer ended by itself, by variant.
    """

    query: str
    source: str
    answers: dict[Variant, str]
    posteriors: dict[Variant, float]
    losses: dict[Variant, float | None]
    finished: dict[Variant, bool]


def shown_samples(lines: Sequence[SampleLine]) -> list[Sample]:
    """The first samples, for the report."""
    return [
        Sample(
            query=line.query,
            source=line.source,
            answers={
                name: Answer(text, line.posteriors[name], line.losses[name], line.finished[name])
                for name, text in line.answers.items()
            },
        )
        for line in lines[:SHOWN_SAMPLES]
    ]


def mean_losses(lines: Sequence[SampleLine]) -> dict[Variant, float]:
    """Mean loss of each variant's answers under the dense model, empty answers left out.

    The masked model's answers are the sliced one's.
    """
    names = lines[0].losses if lines else {}
    rows = {name: [line.losses[name] for line in lines] for name in names}
    kept = {name: [loss for loss in row if loss is not None] for name, row in rows.items()}
    means = {name: sum(row) / len(row) for name, row in kept.items() if row}
    return means | ({"masked": means["sliced"]} if "sliced" in means else {})


def ranking(queries: Sequence[ScoredQuery]) -> Ranking | None:
    """The persona sensitivity of all queries; None without any."""
    ordered = sorted(queries, key=lambda query: query.rank)
    if not ordered:
        return None
    rows = [RankedQuery(q.rank, q.score, q.query, q.kept) for q in ordered]
    shown = min(SHOWN_QUERIES, len(rows) // 2 or 1)
    return Ranking(
        scores=[row.score for row in rows],
        kept=sum(row.kept for row in rows),
        top=rows[:shown],
        bottom=rows[max(shown, len(rows) - shown) :],
    )


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as readable YAML, in their own order; long texts in block style."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def rounded(value: float | None, digits: int = 4) -> float | None:
    """`value` rounded for the metrics; None when it is none or not finite."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
