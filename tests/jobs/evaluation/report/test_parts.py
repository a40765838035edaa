import yaml

from persona_jobs.dataset import ScoredQuery
from persona_jobs.evaluation.persona_score import NOTHING, ScoredAnswer
from persona_jobs.evaluation.report.parts import (
    as_yaml,
    environment_rows,
    ranking,
    shown_samples,
)
from persona_jobs.evaluation.samples import SampleLine


def _query(rank: int, kept: bool) -> ScoredQuery:
    return ScoredQuery(query=f"q{rank}", answer="a", score=1 / rank, rank=rank, kept=kept)


def test_ranking_has_both_ends():
    result = ranking([_query(rank, rank <= 8) for rank in reversed(range(1, 21))])
    assert result is not None
    assert result.kept == 8
    assert [row.rank for row in result.top] == list(range(1, 9))
    assert [row.rank for row in result.bottom] == list(range(13, 21))
    assert list(result.scores) == sorted(result.scores, reverse=True)


def test_ranking_of_few_queries_repeats_none():
    assert ranking([]) is None
    three = ranking([_query(1, True), _query(2, False), _query(3, False)])
    assert three is not None
    shown = [row.rank for row in (*three.top, *three.bottom)]
    assert len(shown) == len(set(shown))


def test_settings_survive_yaml():
    settings = {"b": {"text": "line one\nline <two>: 'x'\n", "n": 3}, "a": ["ä", True, None, "1.0"]}
    text = as_yaml(settings)
    assert yaml.safe_load(text) == settings
    assert text.index("b:") < text.index("a:")
    assert "text: |" in text


def _line(loss: float) -> SampleLine:
    return SampleLine(
        query="q",
        source="s",
        answers={"dense": "d", "sliced": ""},
        scores={"dense": 0.45, "sliced": 0.0},
        voice={"dense": 0.9, "sliced": 0.0},
        relevance={"dense": 0.8, "sliced": 0.0},
        fluency={"dense": 1.0, "sliced": 0.0},
        originality={"dense": 0.625, "sliced": 0.0},
        losses={"dense": loss, "sliced": None},
        finished={"dense": True, "sliced": False},
    )


def test_samples_keep_text_figures_and_ending():
    (sample,) = shown_samples([_line(1.0)])
    assert sample.answers["dense"].figures == ScoredAnswer(0.9, 0.8, 1.0, 0.625, 1.0)
    assert sample.answers["sliced"].figures == NOTHING
    assert sample.answers["sliced"].finished is False


def test_environment_has_labels_and_versions():
    rows = environment_rows({"device": "cpu", "threads": 2, "other": None})
    assert (rows["Device"], rows["Threads"], rows["other"]) == ("cpu", "2", "None")
    assert {"Python", "torch", "transformers", "persona-pruner"} <= set(rows)
