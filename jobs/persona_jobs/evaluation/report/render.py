"""The report as one HTML page."""

import unicodedata
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from ...pipeline.results import EvaluationMetrics, PartName, Variant, VariantMetrics
from ..speed import Speed
from . import charts
from .data import ReportData

DESCRIPTIONS: dict[Variant, str] = {
    "dense": "the unpruned base model",
    "masked": "the base model with the mask applied to its FFN channels",
    "sliced": "the pruned channels removed, without recovery",
    "recovered": "sliced and recovered: the served checkpoint",
    "baseline": "activation-RMS mask of the same width, with the same recovery",
}
# What each figure of the table means.
FIGURES: dict[str, str] = {
    "Persona score": "voice x relevance x fluency x originality of the variant's answers; what the "
    "dense model reaches itself is the mark to compare with",
    "Voice": "how sure the dense model is that the persona, and not one of the reference personas, "
    "gave the answer",
    "Relevance": "how sure it is that the answer belongs to its question and not to another one",
    "Fluency": "whether the answer is as surprising as the dense model's own answers: gibberish "
    "surprises more, a repeated phrase less",
    "Originality": "share of the answer that neither copies the persona's text nor repeats itself",
    "Loss of generated answers": "how unlikely the variant's answers are to the dense model with "
    "the persona's prompt",
    "Persona loss": "how unlikely the persona's held-out answers are to the variant; lower is "
    "better",
    "Persona KL": "how far the variant's predictions for these answers are from the dense model's; "
    "0 is no difference",
    "Generic loss and KL": "the same on general instructions without the persona",
    "Prefill": "how fast the variant reads a prompt",
    "Decode": "how fast it writes an answer",
}

PART_NAMES: dict[PartName, str] = {
    "refit": "Refit",
    "reconstruct": "Reconstruction",
    "fineTune": "Fine-tuning",
}


def render(data: ReportData) -> str:
    """Return the whole page: no scripts, nothing fetched, every text escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    environment.filters["shown"] = printable
    template = environment.from_string(
        files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    )
    metrics = data.metrics
    return template.render(
        data=data,
        metrics=metrics,
        served=metrics.variants.get(metrics.served),
        dense=metrics.variants.get("dense"),
        descriptions=DESCRIPTIONS,
        figures=FIGURES,
        part_names=PART_NAMES,
        columns=_columns(data),
        tiles=_tiles(metrics),
        shown_variants=_shown_variants(data),
        loss_curves=[(c.title, charts.loss_curve(c)) for c in data.curves],
        score_chart=charts.persona_scores(metrics),
        speed_chart=charts.speeds(metrics),
        kept_chart=charts.kept_channels(data.kept),
        kept_width=sum(map(bool, data.kept.mask[0])),
        full_width=len(data.kept.mask[0]),
        layer_count=len(data.kept.mask),
        ranking_chart=None if data.ranking is None else charts.ranking(data.ranking),
    )


def printable(text: str) -> str:
    """Return `text` with a replacement character for each control or bidirectional character."""
    return "".join(
        char if char in "\n\t" or not _hidden(char) else "\N{REPLACEMENT CHARACTER}"
        for char in text.replace("\r\n", "\n")
    )


def _hidden(char: str) -> bool:
    override = "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
    return override or unicodedata.category(char) in ("Cc", "Cs")


def _ratio(value: float | None, base: float | None) -> str:
    """Return `value` as a multiple of `base`, or an empty string."""
    return f"{value / base:.2f}×" if value is not None and base else ""


def _shown_variants(data: ReportData) -> list[Variant]:
    """Return the variants with answers of their own: masked and sliced are one model."""
    return [
        name
        for name in data.metrics.variants
        if any(name in sample.answers for sample in data.samples)
    ]


def _columns(data: ReportData) -> list[dict[str, Any]]:
    """Return the rows of the table of variants: one per measurement, one cell per variant.

    A measurement that no variant has is left out.
    """
    metrics = data.metrics
    dense = metrics.variants.get("dense")

    def row(label: str, unit: str, name: str, form: str) -> dict[str, Any]:
        cells = []
        for key, variant in metrics.variants.items():
            value = getattr(variant, name)
            base = None if dense is None or variant is dense else getattr(dense, name)
            low, high = _range(variant, data.speeds.get(key), name)
            interval = "" if low is None else f"{low:,.1f} – {high:,.1f}"
            cells.append(
                {
                    "value": "–" if value is None else format(value, form),
                    "ratio": "" if name.endswith("kl") else _ratio(value, base),
                    "interval": interval,
                }
            )
        return {"label": label, "unit": unit, "cells": cells}

    rows = [
        row("Persona score", "0–100, higher is better", "persona_score", ".1f"),
        row("in percent of dense", "same questions", "persona_score_retention", ".0f"),
        row("Voice", "0–100", "voice", ".1f"),
        row("Relevance", "0–100", "relevance", ".1f"),
        row("Fluency", "0–100", "fluency", ".1f"),
        row("Originality", "0–100", "originality", ".1f"),
        row(
            "Loss of generated answers",
            "nats per token, under the dense model",
            "answer_loss",
            ".3f",
        ),
        row("Persona loss", "nats per token", "persona_loss", ".3f"),
        row("Persona KL to dense", "nats per token", "persona_kl", ".3f"),
        row("Generic loss", "nats per token", "generic_loss", ".3f"),
        row("Generic KL to dense", "nats per token", "generic_kl", ".3f"),
        row("Parameters", "", "parameters", ",d"),
        row("Weights stored", "bytes", "checkpoint_bytes", ",d"),
        row("Prefill", "tokens per second", "prefill_tokens_per_second", ",.1f"),
        row("Decode", "tokens per second, batch of one", "decode_tokens_per_second", ",.1f"),
    ]
    return [found for found in rows if any(cell["value"] != "–" for cell in found["cells"])]


def _range(
    variant: VariantMetrics, speed: Speed | None, name: str
) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of a score, or the slowest and fastest round of a speed."""
    if name in ("persona_score", "persona_score_retention"):
        low, high = getattr(variant, f"{name}_low"), getattr(variant, f"{name}_high")
        return (None, None) if low is None or high is None else (low, high)
    if name == "prefill_tokens_per_second" and speed is not None:
        return speed.prefill_range
    if name == "decode_tokens_per_second" and speed is not None:
        return speed.decode_range
    return None, None


def _tiles(metrics: EvaluationMetrics) -> list[dict[str, str]]:
    """Return the headline figures of the served variant beside the dense model."""
    served, dense = metrics.variants.get(metrics.served), metrics.variants.get("dense")
    if served is None or dense is None:
        return []

    def change(label: str, name: str, form: str) -> dict[str, str] | None:
        new, old = getattr(served, name), getattr(dense, name)
        if new is None or not old:
            return None
        return {
            "label": label,
            "value": f"{(new / old - 1) * 100:+.1f} %",
            "detail": f"{_short(new, form)} against {_short(old, form)}",
        }

    tiles = [
        _score_tile(served, dense, metrics.chance_persona_score),
        change("Weights stored", "checkpoint_bytes", "bytes"),
        change("Generic loss", "generic_loss", ".3f"),
        change("Prefill speed", "prefill_tokens_per_second", ",.0f"),
        change("Decode speed", "decode_tokens_per_second", ",.1f"),
    ]
    return [tile for tile in tiles if tile is not None]


def _score_tile(
    served: VariantMetrics, dense: VariantMetrics, chance: float
) -> dict[str, str] | None:
    if served.persona_score is None or dense.persona_score is None:
        return None
    return {
        "label": "Persona score",
        "value": f"{served.persona_score:.1f}",
        "detail": f"dense {dense.persona_score:.1f}, without persona {chance:.1f}",
    }


def _short(value: float, form: str) -> str:
    if form != "bytes":
        return format(value, form)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f}\N{NO-BREAK SPACE}{unit}"
        value /= 1024
    return f"{value:,.2f}\N{NO-BREAK SPACE}GiB"
