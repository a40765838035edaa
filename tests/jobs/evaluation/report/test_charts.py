import math
from xml.etree import ElementTree as ET

import pytest

from persona_jobs.dataset import CurvePoint
from persona_jobs.evaluation.report import (
    Curve,
    KeptChannels,
    RankedQuery,
    Ranking,
    charts,
)
from persona_jobs.pipeline.results import EvaluationMetrics
from support.report import metrics, variant

NS = "{http://www.w3.org/2000/svg}"


def _texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter(f"{NS}text")]


def _with_class(svg: str, tag: str, style: str) -> list[ET.Element]:
    found = ET.fromstring(svg).iter(f"{NS}{tag}")
    return [node for node in found if style in node.attrib.get("class", "").split()]


def test_loss_curve_draws_both_lines_and_skips_gaps():
    points = [
        CurvePoint(step=s, train_loss=2.0 - s / 10, validation_loss=1.5 if s % 5 == 0 else None)
        for s in range(11)
    ]
    points.append(CurvePoint(step=11, train_loss=math.nan))
    svg = charts.loss_curve(Curve("Mask", points))
    assert svg is not None
    (training,) = _with_class(svg, "polyline", "training")
    (validation,) = _with_class(svg, "polyline", "validation")
    assert len(training.attrib["points"].split()) == 11
    assert len(validation.attrib["points"].split()) == 3
    heights = [float(p.split(",")[1]) for p in training.attrib["points"].split()]
    assert heights == sorted(heights)  # a falling loss goes down the page
    assert {"training loss", "validation loss", "optimizer step", "nats per token"} <= set(
        _texts(svg)
    )


@pytest.mark.parametrize(
    "points", [[], [CurvePoint(step=0)], [CurvePoint(step=0, train_loss=math.inf)]]
)
def test_loss_curve_without_values_is_none(points: list[CurvePoint]):
    assert charts.loss_curve(Curve("Mask", points)) is None


def test_loss_curve_of_one_point():
    assert charts.loss_curve(Curve("Mask", [CurvePoint(step=0, train_loss=1.0)])) is not None


def test_persona_scores_place_points_intervals_and_chance():
    svg = charts.persona_scores(metrics())
    assert svg is not None
    dense, recovered = (
        float(_with_class(svg, "circle", name)[0].attrib["cx"]) for name in ("dense", "recovered")
    )
    chance = float(_with_class(svg, "line", "chance")[0].attrib["x1"])
    assert chance < recovered < dense
    interval = _with_class(svg, "line", "interval")[0].attrib
    assert float(interval["x1"]) < dense < float(interval["x2"])


def test_persona_scores_without_scores_is_none():
    assert charts.persona_scores(metrics(variants={"dense": variant(None)})) is None


def test_changed_channels_counts_swaps():
    assert charts.changed_channels([[1, 1, 0, 0], [1, 0, 1, 0]], [[1, 1, 0, 0], [0, 1, 0, 1]]) == [  # type: ignore[list-item]
        0,
        2,
    ]


def test_kept_channels_shade_by_share():
    full, half = [True] * 128, [True, False] * 64
    svg = charts.kept_channels(KeptChannels([full, half]))
    assert len(_with_class(svg, "path", "s5")[0].attrib["d"].split("M")) - 1 == 64
    assert len(_with_class(svg, "path", "s2")[0].attrib["d"].split("M")) - 1 == 64
    assert not _with_class(svg, "rect", "recovered")


def test_kept_channels_show_differences_to_the_baseline():
    ours = [[True, True, False, False], [True, False, True, False]]
    theirs = [[True, True, False, False], [False, True, False, True]]
    svg = charts.kept_channels(KeptChannels(ours, theirs))
    widths = [float(bar.attrib["width"]) for bar in _with_class(svg, "rect", "recovered")]
    assert widths[0] == 0.0
    assert widths[1] > 100


@pytest.mark.parametrize(("layers", "width"), [(1, 1), (126, 70)])
def test_kept_channels_of_any_shape(layers: int, width: int):
    mask = [[True] * width] * layers
    height = float(
        ET.fromstring(charts.kept_channels(KeptChannels(mask, mask))).attrib["viewBox"].split()[3]
    )
    assert height < 900


def test_ranking_histogram_counts_every_query():
    scores = [1 / (n + 1) for n in range(200)]
    rows = [RankedQuery(1, 1.0, "q", True)]
    svg = charts.ranking(Ranking(scores, 80, rows, rows))
    assert svg is not None
    bars = {
        style: [float(b.attrib["height"]) for b in _with_class(svg, "rect", style)]
        for style in ("kept", "generic")
    }
    swatches = 10.0
    kept, generic = (sum(bars[style]) - swatches for style in ("kept", "generic"))
    assert kept / generic == pytest.approx(80 / 120, rel=0.01)
    assert charts.ranking(Ranking([], 0, [], [])) is None
    assert charts.ranking(Ranking([0.5] * 3, 1, rows, rows)) is not None


def test_speeds_leave_out_what_was_not_timed():
    svg = charts.speeds(metrics())
    assert svg is not None
    texts = _texts(svg)
    assert "baseline" not in texts
    assert "25.0 tokens/s  (1.25×)" in texts
    untimed = metrics(variants={"dense": variant(prefill_tokens_per_second=None)})
    assert charts.speeds(untimed) is None


def test_no_dense_variant_no_speed_chart():
    empty = EvaluationMetrics(
        served="sliced", chance_persona_score=50.0, queries=0, variants={"sliced": variant()}
    )
    assert charts.speeds(empty) is None
