import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from persona_jobs.evaluation.answer_likelihoods import Continuations, answer_loglikelihoods
from persona_jobs.evaluation.answer_segments import counted_tokens, segments
from persona_jobs.evaluation.persona_score import (
    NOTHING,
    GivenAnswer,
    Likelihoods,
    ScoredAnswer,
    chance_level,
    fluency,
    mean_figures,
    other_questions,
    passes,
    posterior,
    question_scores,
    score_answers,
    voice,
)
from persona_jobs.models import chat
from support.tiny import tiny_model, tiny_tokenizer

TARGET = "You are Mara, a retired smuggler who talks of the sea."
REFERENCES = [
    "You are a monk.",
    "You are a strict governess in Yorkshire. You correct everybody's grammar.",
    "You are a skateboarder, dude.",
]
PERSONAS = [TARGET, *REFERENCES]
tokenizer = tiny_tokenizer()


def prompt(system: str, query: str) -> list[int]:
    return chat.render(tokenizer, chat.messages(system, query), add_generation_prompt=True)


def encoded(text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def given(query: str, text: str) -> GivenAnswer:
    return GivenAnswer(query, (*encoded(text), tokenizer.eos_token_id), empty=not text)


ANSWERS = [
    given("Who are you?", "Nobody."),
    given(
        "Who are you?", "The sea knows my name, and the harbour forgot it long ago. Ask the sea."
    ),
    given(
        "How do I cook rice for eleven people?", "Water first. You are Mara, a retired smuggler."
    ),
    given("Why?", "Because because because because because."),
]
SOURCES = [encoded(TARGET)]


def plain_loglikelihoods(
    model: torch.nn.Module, system: str, query: str, answer: GivenAnswer
) -> list[float]:
    """Return the tokens' log-likelihoods by one full forward pass, without a cache or a batch."""
    head = prompt(system, query)
    with torch.no_grad():
        log_p = F.log_softmax(model(torch.tensor([[*head, *answer.ids]])).logits[0].float(), -1)
    return [float(log_p[len(head) + i - 1, token]) for i, token in enumerate(answer.ids)]


def softened(family: str = "llama") -> torch.nn.Module:
    """A model whose random weights distinguish personas not too sharply to test the figures."""
    model = tiny_model(family)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.05)
    return model


def score(
    model: torch.nn.Module, answers: list[GivenAnswer], **options: object
) -> list[ScoredAnswer]:
    return score_answers(model, prompt, PERSONAS, answers, answers, sources=SOURCES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_figures_equal_the_plain_computation(family: str):
    model = softened(family)
    losses = []
    for scored, answer in zip(score(model, ANSWERS), ANSWERS, strict=True):
        counted = counted_tokens(answer.ids, SOURCES)
        numbers = segments(counted)
        rows = [plain_loglikelihoods(model, p, answer.query, answer) for p in PERSONAS]
        posteriors = []
        for segment in range(1, max(numbers) + 1):
            sums = [
                sum(v for v, n in zip(row, numbers, strict=True) if n == segment) for row in rows
            ]
            posteriors.append(math.exp(sums[0]) / sum(map(math.exp, sums)))
        assert scored.voice == pytest.approx(statistics.fmean(posteriors), abs=1e-4)
        queries = [answer.query, *other_questions(a.query for a in ANSWERS)[answer.query]]
        assert len(queries) == 3
        sums = []
        for query in queries:
            row = plain_loglikelihoods(model, TARGET, query, answer)
            sums.append(sum(v for v, counts in zip(row, counted, strict=True) if counts))
        expected = math.exp(sums[0]) / sum(map(math.exp, sums))
        assert scored.relevance == pytest.approx(expected, abs=1e-4)
        assert scored.originality == sum(counted) / len(counted)
        assert scored.loss == pytest.approx(-sum(rows[0]) / len(answer.ids), abs=1e-4)
        losses.append(scored.loss)
        product = scored.voice * scored.relevance * scored.fluency * scored.originality
        assert scored.score == product
    assert [a.fluency for a in score(model, ANSWERS)] == fluency(losses, losses)
    assert len(segments(counted_tokens(ANSWERS[1].ids, SOURCES))) > 20
    assert [a.originality < 1 for a in score(model, ANSWERS)] == [False, True, True, True]


def test_loglikelihoods_of_many_groups_equal_the_plain_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("persona_jobs.training.losses.CHUNK_POSITIONS", 7)
    model = tiny_model()
    queries = list(dict.fromkeys(answer.query for answer in ANSWERS))
    groups = [
        Continuations(prompt(TARGET, query), [answer.ids for answer in ANSWERS * 3])
        for query in queries
    ]
    done: list[int] = []
    for query, rows in zip(
        queries, answer_loglikelihoods(model, groups, on_rows=done.append), strict=True
    ):
        for answer, row in zip(ANSWERS * 3, rows, strict=True):
            plain = plain_loglikelihoods(model, TARGET, query, answer)
            assert row.tolist() == pytest.approx(plain, abs=1e-3)
    assert sum(done) == len(queries) * len(ANSWERS) * 3
    assert answer_loglikelihoods(model, []) == []


def test_equal_personas_share_the_probability():
    scored = score_answers(tiny_model(), prompt, [TARGET] * 5, ANSWERS, ANSWERS)
    assert [a.voice for a in scored] == pytest.approx([0.2] * len(ANSWERS), abs=1e-5)


def test_a_single_question_is_relevant():
    scored = score(tiny_model(), ANSWERS[:2])
    assert [a.relevance for a in scored] == [1.0, 1.0]


def test_an_empty_answer_has_nothing():
    empty, nothing = given("Who are you?", ""), GivenAnswer("Who are you?", ())
    scored = score(tiny_model(), [empty, ANSWERS[0], nothing])
    assert scored[0] == scored[2] == NOTHING
    assert scored[1].score > 0
    assert score(tiny_model(), [nothing]) == [NOTHING]


def test_an_answer_without_counted_tokens_scores_nothing():
    copied = GivenAnswer("Who are you?", tuple(encoded(TARGET)))
    scored = score(tiny_model(), [copied, ANSWERS[0]])[0]
    assert (scored.originality, scored.score) == (0.0, 0.0)
    assert scored.voice == pytest.approx(0.25)


def test_equal_answers_are_computed_once():
    done: list[int] = []
    twice = [*ANSWERS, *ANSWERS]
    scored = score(tiny_model(), twice, on_rows=done.append)
    assert scored[: len(ANSWERS)] == scored[len(ANSWERS) :]
    assert sum(done) == passes(twice, len(PERSONAS)) == len(ANSWERS) * (len(PERSONAS) + 2)


@pytest.mark.parametrize("parts", [1, 3, 4])
def test_an_interrupted_scoring_resumes_to_the_same_figures(parts: int):
    model, known, done = softened(), Likelihoods(), []
    whole = score(model, ANSWERS)

    def stop() -> None:
        done.append(1)
        if len(done) == parts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, ANSWERS, finished=known, on_part=stop)
    assert len(known.by_persona) == parts
    rows: list[int] = []
    assert score(model, ANSWERS, finished=known, on_rows=rows.append) == whole
    assert sum(rows) == len(ANSWERS) * (len(PERSONAS) - parts + 2)


def test_posterior_survives_very_unlikely_answers():
    assert posterior([-90_000.0, -90_000.0]) == 0.5
    assert posterior([-5000.0, -5001.0]) == pytest.approx(1 / (1 + math.exp(-1)))
    assert posterior([-9000.0, 0.0]) == 0.0


def test_voice_is_the_mean_over_the_segments():
    """A greeting in the persona's voice does not colour the rest of the answer."""
    target, other = [0.0, -10.0, -50.0, -50.0], [-9.0, -40.0, -20.0, -20.0]
    assert voice([target, other]) == pytest.approx(1 / 3)
    assert voice([[-3.0], [-4.0]]) == 0.5


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (2.0, 1.0),
        (3.0, 1.0),
        (1.0, 1.0),
        (3.5, math.exp(-0.5)),
        (0.5, math.exp(-0.5)),
        (4.0, math.exp(-2)),
    ],
)
def test_fluency_falls_beyond_two_deviations_on_either_side(loss: float, expected: float):
    usual = [1.5, 2.5, 1.5, 2.5, 2.0]  # mean 2, standard deviation 0.5
    assert fluency([loss], usual) == pytest.approx([expected])


def test_nearly_equal_losses_have_a_least_deviation():
    assert fluency([2.2, 2.4], [2.0]) == pytest.approx([1.0, math.exp(-2)])
    assert fluency([2.2], [2.0, 2.0]) == pytest.approx([1.0])
    assert fluency([9.0], []) == [1.0]


def test_other_questions_follow_in_turn():
    queries = [f"Question {n}?" for n in range(9)]
    others = other_questions([*queries, *queries])
    assert others[queries[0]] == queries[1:7]
    assert others[queries[7]] == [queries[8], *queries[:5]]
    assert other_questions(["a", "b"]) == {"a": ["b"], "b": ["a"]}
    assert other_questions(["a"]) == {"a": []}


def test_a_question_s_score_is_the_mean_over_its_answers():
    answers = [ScoredAnswer(v, 1.0, 0.5, 1.0, v) for v in (0.2, 0.6, 0.4, 1.0)]
    assert question_scores(answers, 2) == pytest.approx([15.0, 40.0])
    assert question_scores(answers, 4) == pytest.approx([10.0, 30.0, 20.0, 50.0])
    mean = mean_figures([*answers, NOTHING])
    assert (mean.voice, mean.relevance, mean.fluency) == pytest.approx((0.44, 0.8, 0.4))
    assert mean.loss == pytest.approx(0.55)
    assert mean_figures([NOTHING]).loss is None


def test_chance_level():
    assert chance_level(10) == pytest.approx(100 / 11)
