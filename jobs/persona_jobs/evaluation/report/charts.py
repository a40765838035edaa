"""The report's charts as SVG."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ...pipeline.results import EvaluationMetrics
from .data import Curve, KeptChannels, Ranking
from .svg import Scale, Svg, element, figure, group, legend, number, span, x_axis, y_axis

WIDTH = 760
STRIP_BINS = 64
# Upper bounds of the share of kept channels in a bin, one shade each.
STRIP_SHADES = (0.2, 0.4, 0.6, 0.8, 0.999, 1.0)


def loss_curve(curve: Curve) -> Svg | None:
    """Draw train and validation loss over the steps, or return None without a finite value."""
    lines = {
        "training": [(p.step, p.train_loss) for p in curve.points],
        "validation": [(p.step, p.validation_loss) for p in curve.points],
    }
    finite = {
        name: [(s, v) for s, v in line if v is not None and math.isfinite(v)]
        for name, line in lines.items()
    }
    values = [value for line in finite.values() for _, value in line]
    if not values:
        return None
    height, left, right, top, bottom = 300, 64, WIDTH - 16, 34, 250
    steps = [step for line in finite.values() for step, _ in line]
    x = Scale(min(steps), max(*steps, min(steps) + 1), left, right)
    y = Scale(*span(values, zero=True), bottom, top)
    drawn = [
        group(
            [
                element(
                    "polyline",
                    points=" ".join(f"{number(x(s))},{number(y(v))}" for s, v in line),
                    class_=f"line {name}",
                ),
                # Sparse series, such as the validation loss, also show their points.
                *(
                    element("circle", cx=x(s), cy=y(v), r=3, class_=f"fill {name}")
                    for s, v in (line if len(line) <= 40 else [])
                ),
            ]
        )
        for name, line in finite.items()
        if line
    ]
    return figure(
        f"{curve.title}: loss by optimizer step",
        WIDTH,
        height,
        legend([(f"{name} loss", name) for name, line in finite.items() if line], left, 18),
        y_axis(y, left, right, "nats per token"),
        x_axis(x, bottom, "optimizer step"),
        *drawn,
    )


def persona_scores(metrics: EvaluationMetrics) -> Svg | None:
    """Draw the persona score of each variant with its interval, and the chance level."""
    rows = [(n, v) for n, v in metrics.variants.items() if v.persona_score is not None]
    if not rows:
        return None
    left, right, top, row = 110, WIDTH - 70, 34, 34
    bottom = top + row * len(rows)
    x = Scale(0, 100, left, right)
    chance = x(metrics.chance_persona_score)
    drawn = [
        element("line", x1=chance, x2=chance, y1=top - 4, y2=bottom, class_="chance"),
        element(
            "text",
            f"without persona {metrics.chance_persona_score:.1f}",
            x=chance + 5,
            y=top - 10,
            class_="tick",
        ),
    ]
    for index, (name, variant) in enumerate(rows):
        score = variant.persona_score or 0.0
        low = score if variant.persona_score_low is None else variant.persona_score_low
        high = score if variant.persona_score_high is None else variant.persona_score_high
        y = top + row * (index + 0.5)
        drawn += [
            element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"),
            element("text", name, x=left - 12, y=y + 4, class_="tick end"),
            element("line", x1=x(low), x2=x(high), y1=y, y2=y, class_=f"interval {name}"),
            element("circle", cx=x(score), cy=y, r=6, class_=f"fill {name}"),
            element("text", f"{score:.1f}", x=right + 12, y=y + 4, class_="tick strong"),
        ]
    return figure(
        "Persona score by variant with 95 % interval",
        WIDTH,
        bottom + 46,
        x_axis(x, bottom, "persona score (0–100)"),
        *drawn,
    )


def kept_channels(kept: KeptChannels) -> Svg:
    """Draw one strip per layer: the share of kept channels by channel index.

    At the right is the number of channels that are kept here but not by the activation-RMS mask.
    """
    layers, width = len(kept.mask), len(kept.mask[0])
    bins = min(STRIP_BINS, width)
    row = 16 if layers <= 32 else max(5, 512 // layers)
    left, top = 54, 44
    strip_right = 500 if kept.baseline is not None else WIDTH - 16
    bottom = top + row * layers
    x = Scale(0, width, left, strip_right)
    edges = [round(index * width / bins) for index in range(bins + 1)]
    # One path per shade keeps a report of many layers small.
    paths: list[list[str]] = [[] for _ in STRIP_SHADES]
    for layer, flags in enumerate(kept.mask):
        y = top + layer * row
        for start, end in pairwise(edges):
            share = sum(map(bool, flags[start:end])) / (end - start)
            shade = next(i for i, bound in enumerate(STRIP_SHADES) if share <= bound)
            w, h = number(x(end) - x(start)), number(row - 1)
            paths[shade].append(f"M{number(x(start))} {number(y)}h{w}v{h}h-{w}z")
    drawn = [
        element("path", d="".join(path), class_=f"shade s{shade}")
        for shade, path in enumerate(paths)
        if path
    ]
    every = max(1, math.ceil(12 / row))
    drawn += [
        element("text", str(layer), x=left - 8, y=top + (layer + 0.5) * row + 4, class_="tick end")
        for layer in range(0, layers, every)
    ]
    drawn.append(_layer_label(top, bottom))
    drawn.append(_shade_legend(left))
    if kept.baseline is not None:
        drawn.append(_differences(kept.mask, kept.baseline, strip_right + 40, top, row))
    return figure(
        "Kept FFN channels by layer",
        WIDTH,
        bottom + 46,
        x_axis(x, bottom, "FFN intermediate channel"),
        *drawn,
    )


def _shade_legend(left: float) -> Svg:
    drawn = [element("text", "kept share of channels:", x=left, y=18, class_="tick")]
    labels = ("≤ 20 %", "40 %", "60 %", "80 %", "< 100 %", "100 %")
    for shade, label in enumerate(labels):
        at = left + 156 + shade * 76
        drawn.append(element("rect", x=at, y=9, width=12, height=10, class_=f"shade s{shade}"))
        drawn.append(element("text", label, x=at + 16, y=18, class_="tick"))
    return group(drawn)


def _layer_label(top: float, bottom: float) -> Svg:
    middle = number((top + bottom) / 2)
    return element(
        "text", "layer", x=14, y=(top + bottom) / 2, class_="label middle",
        transform=f"rotate(-90 14 {middle})",
    )  # fmt: skip


def changed_channels(
    mask: Sequence[Sequence[bool]], baseline: Sequence[Sequence[bool]]
) -> list[int]:
    """Return for each layer the number of channels kept by `mask` but not by `baseline`."""
    return [
        sum(1 for in_mask, in_baseline in zip(a, b, strict=True) if in_mask and not in_baseline)
        for a, b in zip(mask, baseline, strict=True)
    ]


def _differences(
    mask: Sequence[Sequence[bool]],
    baseline: Sequence[Sequence[bool]],
    left: float,
    top: float,
    row: float,
) -> Svg:
    counts = changed_channels(mask, baseline)
    right = WIDTH - 44
    x = Scale(0, max(1, *counts), left, right)
    drawn = [
        element("text", "kept here, not by activation RMS", x=left, y=top - 8, class_="tick"),
        element("line", x1=left, x2=left, y1=top, y2=top + row * len(counts), class_="axis"),
    ]
    for layer, count in enumerate(counts):
        y = top + layer * row
        drawn.append(
            element("rect", x=left, y=y + 1, width=x(count) - left, height=max(1.0, row - 3),
                    class_="fill recovered")
        )  # fmt: skip
        if row >= 11:
            drawn.append(
                element("text", f"{count:,}", x=x(count) + 5, y=y + row / 2 + 4, class_="tick")
            )
    return group(drawn)


def ranking(ranked: Ranking) -> Svg | None:
    """Draw a histogram of the queries' persona sensitivity, with the kept ones set apart."""
    scores = [score for score in ranked.scores if math.isfinite(score)]
    if not scores:
        return None
    low, high = span(scores)
    bins = min(40, max(8, round(math.sqrt(len(scores)) * 2)))
    counts: dict[str, list[int]] = {"kept": [0] * bins, "generic": [0] * bins}
    for index, score in enumerate(scores):
        position = min(bins - 1, int((score - low) / (high - low) * bins))
        counts["kept" if index < ranked.kept else "generic"][position] += 1
    left, right, top, bottom = 64, WIDTH - 16, 34, 230
    x = Scale(low, high, left, right)
    tallest = max(a + b for a, b in zip(counts["kept"], counts["generic"], strict=True))
    y = Scale(0, tallest * 1.05, bottom, top)
    bar = (right - left) / bins
    drawn = []
    for index in range(bins):
        base = 0
        for style in ("kept", "generic"):
            count = counts[style][index]
            if count:
                drawn.append(
                    element(
                        "rect",
                        x=left + index * bar + 1,
                        y=y(base + count),
                        width=bar - 2,
                        height=y(base) - y(base + count),
                        class_=f"fill {style}",
                    )
                )
            base += count
    return figure(
        "Persona sensitivity of the queries",
        WIDTH,
        278,
        legend([("kept for training", "kept"), ("used as generic data", "generic")], left, 18),
        y_axis(y, left, right, "queries"),
        x_axis(x, bottom, "persona sensitivity s(q)"),
        *drawn,
    )


def speeds(metrics: EvaluationMetrics) -> Svg | None:
    """Draw prefill and decode speed of the measured variants, relative to the dense model."""
    dense = metrics.variants.get("dense")
    if dense is None or not dense.prefill_tokens_per_second or not dense.decode_tokens_per_second:
        return None
    bars: Mapping[str, list[tuple[str, float, float]]] = {"prefill": [], "decode": []}
    for name, v in metrics.variants.items():
        for kind, value, base in (
            ("prefill", v.prefill_tokens_per_second, dense.prefill_tokens_per_second),
            ("decode", v.decode_tokens_per_second, dense.decode_tokens_per_second),
        ):
            if value:
                bars[kind].append((name, value, value / base))
    row, left, right, top = 24, 110, WIDTH - 170, 24
    widest = max(1.0, *(ratio for rows in bars.values() for _, _, ratio in rows))
    x = Scale(0, widest * 1.02, left, right)
    drawn: list[Svg] = []
    y = float(top)
    for kind, rows in bars.items():
        drawn.append(element("text", kind, x=left, y=y - 6, class_="label"))
        for variant, value, ratio in rows:
            drawn += [
                element("text", variant, x=left - 12, y=y + 15, class_="tick end"),
                element("rect", x=left, y=y + 4, width=x(ratio) - left, height=row - 8, rx=2,
                        class_=f"fill {variant}"),
                element("text", f"{value:,.1f} tokens/s  ({ratio:.2f}×)", x=right + 10,
                        y=y + 16, class_="tick"),
            ]  # fmt: skip
            y += row
        y += 30
    one = x(1.0)
    drawn.insert(0, element("line", x1=one, x2=one, y1=top, y2=y - 30, class_="chance"))
    return figure(
        "Prefill and decode speed relative to the dense model",
        WIDTH,
        int(y) + 20,
        x_axis(x, y - 26, "speed relative to dense"),
        *drawn,
    )
