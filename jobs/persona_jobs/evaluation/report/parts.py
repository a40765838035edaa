"""Parts of the report, from the measurements and other stages' files."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from ... import __version__
from ...dataset import ScoredQuery
from ..samples import SampleLine
from .data import Answer, RankedQuery, Ranking, Sample

SHOWN_QUERIES = 8
SHOWN_SAMPLES = 8
_ENVIRONMENT_LABELS = {
    "device": "Device",
    "dtype": "Number format",
    "dtypeReason": "Chosen because",
    "threads": "Threads",
    "cpus": "Processors",
}


def shown_samples(lines: Sequence[SampleLine]) -> list[Sample]:
    """Return the first samples for the report."""
    return [
        Sample(
            query=line.query,
            source=line.source,
            answers={
                name: Answer(text, line.figures(name), line.finished[name])
                for name, text in line.answers.items()
            },
        )
        for line in lines[:SHOWN_SAMPLES]
    ]


def ranking(queries: Sequence[ScoredQuery]) -> Ranking | None:
    """Return the persona sensitivity of all queries, or None if there are none."""
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


def environment_rows(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return device, number format and versions by label.

    Args:
        environment: the values that the stage records in its manifest.
    """
    rows = {_ENVIRONMENT_LABELS.get(name, name): str(value) for name, value in environment.items()}
    rows |= {"Python": platform.python_version(), "Machine": platform.platform()}
    for package in ("torch", "transformers"):
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**rows, "persona-pruner": __version__}


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return settings as readable YAML in their own order, with long texts as blocks."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
