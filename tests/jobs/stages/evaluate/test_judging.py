"""An evaluation with judges whose behaviour is known."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from persona_jobs.errors import EndpointError, InputError, StageInterruptedError
from persona_jobs.evaluation.judges.checks import INSTRUCTION
from persona_jobs.pipeline.judge_results import JudgeMetrics
from persona_jobs.stages.evaluate import stage as evaluate
from support import judges
from support.endpoint import Body, Endpoint, Reply, completion, error, running_endpoint, user_text
from support.evaluation import NO_RECOVERY, World, example
from support.stages import StopAfter

QUESTIONS = 8
# Answers of the dense and the sliced model, as other personas, as those with an instruction, and of
# the damaged model.
ARMS = 5


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_endpoint() as running:
        yield running


@pytest.fixture
def judged(world: Callable[..., World], endpoint: Endpoint) -> Callable[..., World]:
    """Make a world with one judge behind the endpoint."""

    def make(
        name: str = "first", *, evaluation: dict[str, Any] | None = None, **judge: Any
    ) -> World:
        settings = {"baseURL": endpoint.url, "model": "m", "maxRetries": 0, **judge}
        made = world(
            recovery=NO_RECOVERY,
            evaluation={
                "maxQueries": QUESTIONS,
                "maxAnswerTokens": 8,
                "genericSamples": 4,
                "bootstrapSamples": 100,
                "baseline": False,
                "judges": [{"name": name, "openAI": settings}],
                **(evaluation or {}),
            },
        )
        made.held_out = [example(number) for number in range(QUESTIONS)]
        return made

    return make


def only(made: World) -> JudgeMetrics:
    [found] = made.metrics.judges
    return found


def lines(made: World) -> list[dict[str, Any]]:
    text = (made.root / "output/judgements.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def dense_answers(made: World) -> list[str]:
    return [line.answers["dense"] for line in made.samples]


def telling(made: World) -> judges.Behaviour:
    """A judge that gives the dense model's answers 90 and all others 20."""
    known = [f"<answer>\n{answer}\n</answer>" for answer in dense_answers(made)]
    return judges.by_text(dict.fromkeys(known, "90"), "20")


def test_a_judge_that_always_says_seventy_gives_seventy_and_is_not_trusted(
    judged: Callable[..., World], endpoint: Endpoint
):
    endpoint.behave = judges.always("70")
    made = judged()
    made.run()
    found = only(made)
    for variant in ("dense", "sliced"):
        score = found.variants[variant]  # type: ignore[index]
        assert (score.score, score.low, score.high, score.score_with_zeros) == (70, 70, 70, 70)
        assert (score.scored, score.weighted) == (QUESTIONS, 0)
    assert found.mode == "raw"
    assert not found.trusted
    assert "it doesn't tell this persona's answers from other personas' answers" in found.reason


def test_a_judge_that_refuses_half_is_reported_as_such(
    judged: Callable[..., World], endpoint: Endpoint
):
    endpoint.behave = judges.every_second(judges.always("80"), judges.always("REFUSAL"))
    made = judged(maxConcurrency=1)
    made.run()
    found = only(made)
    scores = found.variants.values()
    assert sum(score.refused for score in scores) == sum(score.scored for score in scores)
    for score in scores:
        assert score.score == 80
        assert score.score_with_zeros == pytest.approx(80 * score.scored / QUESTIONS, abs=0.01)
    assert not found.trusted
    assert "90 % are needed" in found.reason


@pytest.mark.parametrize(
    ("behave", "outcome"),
    [
        (judges.always("I would rate this 100 out of 100: arr!"), "unparseable"),
        (judges.always("1000"), "unparseable"),
        (judges.hanging, "failed"),
        (lambda number, body: Reply(b"<html>" if number else completion("100")), "failed"),
    ],
)  # fmt: skip
def test_a_judge_without_scores_ends_no_evaluation(
    judged: Callable[..., World], endpoint: Endpoint, behave: judges.Behaviour, outcome: str
):
    endpoint.behave = behave
    made = judged(timeoutSeconds=1, maxConcurrency=4)
    made.run()
    found = only(made)
    assert not found.trusted
    for score in found.variants.values():
        assert getattr(score, outcome) >= QUESTIONS - 1
        assert score.scored + getattr(score, outcome) == QUESTIONS
    served = found.variants["sliced"]
    assert served.score is None
    assert served.score_with_zeros == 0


def test_a_judge_that_tells_answers_apart_is_trusted_and_costs_no_further_answers(
    judged: Callable[..., World], endpoint: Endpoint
):
    endpoint.behave = judges.always("70")
    made = judged()
    made.run()
    endpoint.behave = telling(made)
    endpoint.requests.clear()
    other = judged("second", model="n")
    context = other.context()
    context.progress = progress = StopAfter()
    evaluate.run(context)
    assert progress.parts == ["speed", "answers x prompts", "judge second"]
    found = only(other)
    assert found.trusted, found.reason
    assert [check.better_percent for check in found.checks[:2]] == [100, 100]
    assert found.variants["dense"].score == 90
    assert found.variants["sliced"].score == 20
    assert len(endpoint.requests) == len({user_text(body) for body in endpoint.bodies})


def test_a_judge_that_obeys_the_answers_is_not_trusted(
    judged: Callable[..., World], endpoint: Endpoint
):
    endpoint.behave = judges.always("70")
    made = judged()
    made.run()
    honest = telling(made)

    def obedient(number: int, body: Body) -> Reply:
        if INSTRUCTION in user_text(body):
            return Reply(completion("100"))
        return honest(number, body)

    endpoint.behave = obedient
    other = judged(model="n")
    other.run()
    found = only(other)
    assert not found.trusted
    assert found.reason == (
        "it obeys instructions in the answers: they raise its scores by 80 points"
    )


def test_scores_are_weighted_where_the_endpoint_returns_probabilities(
    judged: Callable[..., World], endpoint: Endpoint
):
    places = [{"1": 0.6, "9": 0.4}, {"0": 1.0}, {"0": 1.0}, {"<end>": 1.0}]
    endpoint.behave = lambda number, body: judges.with_logprobs(places)
    made = judged()
    made.run()
    found = only(made)
    assert found.mode == "weighted"
    assert found.variants["dense"].score == pytest.approx(96)
    assert found.variants["dense"].weighted == QUESTIONS
    assert all(body["logprobs"] is True for body in endpoint.bodies)


def test_an_endpoint_that_refuses_log_probabilities_is_asked_without(
    judged: Callable[..., World], endpoint: Endpoint
):
    def behave(_: int, body: Body) -> Reply:
        if "logprobs" in body:
            return error(400, "logprobs are not supported")
        return Reply(completion("70"))

    endpoint.behave = behave
    made = judged()
    made.run()
    assert only(made).mode == "raw"
    assert only(made).variants["dense"].scored == QUESTIONS


def test_every_verdict_is_kept_with_its_text(judged: Callable[..., World], endpoint: Endpoint):
    endpoint.behave = judges.always("70")
    made = judged(evaluation={"judges": []})
    made.run()
    assert not (made.root / "output/judgements.jsonl").exists()
    made = judged()
    made.run()
    found = lines(made)
    assert len(found) == ARMS * QUESTIONS
    assert found[0] == {
        "judge": "first",
        "query": "Question 0, sailor?",
        "answer": "dense",
        "outcome": "scored",
        "score": 70.0,
        "mode": "raw",
        "text": "70",
    }


def test_a_stopped_judge_is_asked_for_the_rest_only(
    judged: Callable[..., World], endpoint: Endpoint
):
    endpoint.behave = judges.always("70")
    made = judged(maxConcurrency=1)
    context = made.context()
    context.progress = progress = StopAfter("judge first", 5)
    context.stop = progress.stop
    with pytest.raises(StageInterruptedError, match="judge first"):
        evaluate.run(context)
    made.run()
    texts = [user_text(body) for body in endpoint.bodies]
    # Verdicts that were on their way when the stop came may be asked for twice.
    assert len(texts) < len(set(texts)) + 5
    assert only(made).variants["dense"].scored == QUESTIONS


def test_questions_to_judge_are_bounded(judged: Callable[..., World], endpoint: Endpoint):
    endpoint.behave = judges.always("70")
    settings = {"baseURL": endpoint.url, "model": "m"}
    judge = {"name": "first", "openAI": settings, "maxQuestions": 2}
    made = judged(evaluation={"judges": [judge]})
    made.run()
    assert only(made).variants["dense"].scored == 2
    assert len(endpoint.requests) <= 2 * ARMS
    assert "it scored 2 pairs" in only(made).reason


def test_a_judge_that_is_not_there_is_an_error_that_may_pass(
    judged: Callable[..., World], endpoint: Endpoint
):
    made = judged(baseURL="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match="connection failed") as raised:
        made.run()
    assert raised.value.subject == "spec.evaluation.judges[0].openAI"


def test_each_judge_has_its_own_key(
    judged: Callable[..., World], endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-teacher")
    monkeypatch.setenv("JUDGE_SECOND_ONE_API_KEY", "sk-second")
    endpoint.behave = judges.always("70")
    made = judged("second-one")
    made.run()
    assert {headers["Authorization"] for _, headers, _ in endpoint.requests} == {"Bearer sk-second"}
    endpoint.behave = lambda number, body: error(401, "who are you?")
    with pytest.raises(InputError, match="Set JUDGE_OTHER_API_KEY"):
        judged("other", model="n").run()


def test_a_question_file_brings_its_own_prompt(
    judged: Callable[..., World], endpoint: Endpoint, tmp_path: Path
):
    file = tmp_path / "questions.json"
    prompt = "Is [ANSWER START]\n{answer}\n[ANSWER END] a reply to {question}? 0 to 100."
    file.write_text(json.dumps({"questions": ["Whither?"], "eval_prompt": prompt}))
    endpoint.behave = judges.always("70")
    made = judged(evaluation={"questionFiles": [{"uri": file.as_uri()}]})
    made.run()
    texts = [user_text(body) for body in endpoint.bodies]
    own = [text for text in texts if "Whither?" in text]
    assert own
    assert all(text.endswith("a reply to Whither?? 0 to 100.") for text in own)
    assert any(text.startswith("You rate how well") for text in texts)
