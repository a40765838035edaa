from html.parser import HTMLParser

import pytest

from persona_jobs.evaluation.report import Curve, KeptChannels, render
from persona_jobs.evaluation.report.render import printable
from support.report import judges, metrics, recovery, report_data, variant

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)">'"&amp;{{ 7*7 }}</style>
</pre><a href="javascript:alert(3)">"""
VOID = {"meta", "br", "img", "link", "input", "hr"}
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p",
    "span", "blockquote", "div", "b", "section", "table", "thead", "tbody", "tr", "th", "td",
    "small", "ul", "li", "figure", "article", "pre", "dl", "dt", "dd",
    "svg", "g", "line", "rect", "circle", "polyline", "path", "text",
}  # fmt: skip


class Page(HTMLParser):
    """Collects tags, attributes and text; checks that elements close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_hostile_texts_are_shown_as_texts():
    page = Page(render(report_data(HOSTILE)))
    assert page.tags <= ALLOWED
    names = {name for name, _ in page.attributes}
    assert not any(name.startswith("on") for name in names)
    # Persona, base model, query, source, two answers, ranking, note, environment, settings.
    assert "".join(page.text).count("<script>alert(1)</script>") >= 12
    assert "{{ 7*7 }}" in "".join(page.text)


def test_every_part_of_the_recovery_is_shown_with_what_it_changed():
    warned = recovery(warnings=[HOSTILE])
    text = " ".join(Page(render(report_data(recovery=warned))).text)
    words = " ".join(text.split())
    assert "Refit 0.900 → 0.500 1.300 → 0.700 1.000 → 0.550 71 used" in words
    assert "Fine-tuning 0.500 → 0.400 0.700 → 1.200 0.550 → 0.600 9 left out" in words
    assert "<script>alert(1)</script>" in words


def test_page_loads_nothing():
    html = render(report_data(HOSTILE))
    page = Page(html)
    assert not {"src", "href", "xlink:href", "action", "srcset"} & {n for n, _ in page.attributes}
    policy = dict(page.attributes)["content"]
    assert any(
        value and value.startswith("default-src 'none'")
        for name, value in page.attributes
        if name == "content"
    ), policy
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_table_has_values_intervals_and_ratios():
    text = " ".join(" ".join(Page(render(report_data())).text).split())
    assert "Persona score 0–100, higher is better 80.0" in text
    assert "65.0 – 75.0" in text  # interval of the recovered model
    assert "390.0 – 1,410.5" in text  # slowest and fastest round of the dense model's prefill
    assert "18.2 – 21.0" in text  # and of its decoding
    assert "0.75× dense" in text  # parameters of the sliced one
    assert "in percent of dense same questions 100 85.0 – 110.0" in text
    assert "Voice 0–100 90.5" in text
    assert "Relevance 0–100 95.2" in text
    assert "Fluency 0–100 85.0" in text
    assert "Originality 0–100 99.0" in text
    assert "under the dense model 1.500 1.500" in text
    assert "-10.0 -20.0 to +1.5" in text  # paired difference
    assert "12 of 16 FFN intermediate channels are kept in each of 3 layers" in text


def test_every_cell_names_its_variant_for_narrow_screens():
    page = Page(render(report_data()))
    names = [value for name, value in page.attributes if name == "data-name"]
    variants = ["dense", "masked", "sliced", "recovered", "baseline"]
    assert len(names) >= 10 * len(variants)
    assert names == variants * (len(names) // len(variants))


def test_empty_and_truncated_answers_are_marked():
    text = "".join(Page(render(report_data())).text)
    assert "(empty)" in text
    assert "(length limit)" in text
    assert "voice 90, relevance 80, fluency 100, originality 50; 1.25 nats per token" in text
    assert "voice 0, relevance 0, fluency 0, originality 0" in text


def test_what_is_missing_is_left_out():
    data = report_data(
        ranking=None,
        samples=[],
        curves=[Curve("Mask learning", [])],
        differences={},
        notes=[],
        kept=KeptChannels([[True, False]]),
        metrics=metrics(
            served="sliced",
            variants={
                "dense": variant(None, generic_loss=None, answer_loss=None),
                "sliced": variant(None, generic_loss=None, answer_loss=None),
            },
        ),
    )
    text = "".join(Page(render(data)).text)
    assert "Answers side by side" not in text
    assert "Persona sensitivity" not in text
    assert "nats per token, under the dense model" not in text
    assert "No optimizer steps were taken" in text
    assert "recovery switched off" in text


@pytest.mark.parametrize("count", [0, 1, 7])
def test_number_of_questions(count: int):
    html = render(report_data(metrics=metrics(queries=count)))
    assert f"{count} question{'' if count == 1 else 's'}<" in html


def test_control_characters_become_visible():
    assert printable("a\x00b\x1b[31mc\u202ed\r\ne\tf") == "a\ufffdb\ufffd[31mc\ufffdd\ne\tf"
    assert printable("naïve 漢字 🚢") == "naïve 漢字 🚢"


def test_long_persona_does_not_break_the_page():
    assert Page(render(report_data("word " * 6000))).tags <= ALLOWED


def test_judges_are_shown_with_their_trust():
    page = render(report_data(metrics=metrics(judges=judges())))
    assert "<h2>Judges</h2>" in page
    assert "<small>61.0 – 78.0</small>" in page
    assert "<b>large</b> (org/large, weighted scores) is trusted." in page
    assert "otherPersonas: +31.5 points on 20 questions." in page
    assert "is not trusted: it gave a score for 0 of 100 answers only; 90 % are needed." in page
    assert "<h2>Judges</h2>" not in render(report_data())
