"""The evaluation report: one HTML file with inline charts, no scripts, no network."""

from .data import (
    Answer,
    Curve,
    KeptChannels,
    RankedQuery,
    Ranking,
    ReportData,
    Sample,
)
from .render import render

__all__ = [
    "Answer",
    "Curve",
    "KeptChannels",
    "RankedQuery",
    "Ranking",
    "ReportData",
    "Sample",
    "render",
]
