import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.evaluation.report.svg import Scale, Svg, element, figure, span, tick_label, ticks


def test_texts_and_attributes_are_escaped():
    drawn = element("text", "<script>&", class_='"><b onclick="x"', x=1.5)
    assert drawn == (
        '<text class="&quot;&gt;&lt;b onclick=&quot;x&quot;" x="1.5">&lt;script&gt;&amp;</text>'
    )
    assert ET.fromstring(drawn).text == "<script>&"


def test_finished_markup_is_not_escaped_again():
    inner = element("line", x1=0, x2=3)
    assert element("g", inner) == '<g><line x1="0" x2="3"/></g>'
    assert isinstance(inner, Svg)


def test_figure_has_a_title_for_screen_readers():
    root = ET.fromstring(figure("A & B", 10, 20, element("line", x1=0)))
    assert root.attrib["viewBox"] == "0 0 10 20"
    assert root.attrib["aria-label"] == "A & B"
    assert root[0].text == "A & B"


def test_scale_maps_ends():
    scale = Scale(10, 20, 100, 0)
    assert [scale(10), scale(15), scale(20)] == [100, 50, 0]


def test_ticks_are_round():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3, 97) == pytest.approx([20, 40, 60, 80])
    assert [tick_label(v, 0.05) for v in (0.25, 0.5)] == ["0.25", "0.50"]
    assert tick_label(12000.0, 2000) == "12,000"


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6), st.booleans())
def test_span_always_leaves_room_for_ticks(values: list[float], zero: bool):
    values = [v for v in values if not math.isfinite(v) or abs(v) < 1e12]
    low, high = span(values, zero=zero)
    assert low < high
    for value in values:
        if math.isfinite(value):
            assert low <= value <= high
    marks = ticks(low, high)
    assert 1 <= len(marks) <= 12
    assert all(low - 1e-6 * (high - low) <= m <= high + 1e-6 * (high - low) for m in marks)
