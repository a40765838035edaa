import pytest
import torch
import torch.nn.functional as F

from persona_jobs.evaluation.persona_score import (
    GivenAnswer,
    ScoredAnswer,
    answer_loglikelihoods,
    answer_set,
    chance_level,
    score_answers,
    target_posterior,
)
from persona_jobs.models import chat
from support.tiny import tiny_model, tiny_tokenizer

TARGET = "You are Mara, a retired smuggler who talks of the sea."
REFERENCES = [
    "You are a monk.",
    "You are a strict governess in Yorkshire. You correct everybody's grammar.",
    "You are a skateboarder, dude.",
]
tokenizer = tiny_tokenizer()


def prompt(system: str, query: str) -> list[int]:
    return chat.render(tokenizer, chat.messages(system, query), add_generation_prompt=True)


def given(query: str, text: str) -> GivenAnswer:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return GivenAnswer(query, (*ids, tokenizer.eos_token_id), empty=not text)


ANSWERS = [
    given("Who are you?", "Nobody."),
    given("Who are you?", "The sea knows my name, and the harbour forgot it long ago."),
    given("How do I cook rice for eleven people?", "Water first."),
    given("Why?", "Because."),
]


def plain_loglikelihood(model: torch.nn.Module, system: str, answer: GivenAnswer) -> float:
    """Return the answer's log-likelihood by one full forward pass, without a cache or a batch."""
    head = prompt(system, answer.query)
    ids = torch.tensor([[*head, *answer.ids]])
    with torch.no_grad():
        log_p = F.log_softmax(model(ids).logits[0].float(), dim=-1)
    return sum(float(log_p[len(head) + i - 1, token]) for i, token in enumerate(answer.ids))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_posteriors_equal_the_plain_computation(family: str):
    model = tiny_model(family)
    # Random weights distinguish personas too sharply to test the probabilities: soften them.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.05)
    ours = score_answers(model, prompt, TARGET, REFERENCES, ANSWERS)
    for scored, answer in zip(ours, ANSWERS, strict=True):
        log_p = torch.tensor(
            [plain_loglikelihood(model, p, answer) for p in (TARGET, *REFERENCES)],
            dtype=torch.float64,
        )
        assert scored.posterior == pytest.approx(float(log_p.softmax(dim=0)[0]), abs=1e-4)
        assert 0.001 < scored.posterior < 0.999
        assert scored.loss == pytest.approx(-float(log_p[0]) / len(answer.ids), abs=1e-4)


def test_loglikelihoods_of_many_rows_equal_the_plain_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("persona_jobs.training.losses.CHUNK_POSITIONS", 7)
    model = tiny_model()
    rows = answer_set([prompt(TARGET, a.query) for a in ANSWERS * 5], [a.ids for a in ANSWERS * 5])
    assert len(rows.prefix) > len(TARGET)
    done: list[int] = []
    ours = answer_loglikelihoods(model, rows, on_rows=done.append)
    plain = torch.tensor([plain_loglikelihood(model, TARGET, a) for a in ANSWERS] * 5)
    assert torch.allclose(ours, plain, atol=1e-3, rtol=1e-5)
    assert sum(done) == len(rows)


def test_equal_personas_share_the_probability():
    ours = score_answers(tiny_model(), prompt, TARGET, [TARGET] * 4, ANSWERS)
    assert [a.posterior for a in ours] == pytest.approx([0.2] * len(ANSWERS), abs=1e-5)


def test_an_empty_answer_gets_the_chance_level():
    empty = given("Who are you?", "")
    nothing = GivenAnswer("Who are you?", ())
    chance = ScoredAnswer(0.25, None)
    scored = score_answers(tiny_model(), prompt, TARGET, REFERENCES, [empty, ANSWERS[0], nothing])
    assert scored[0] == scored[2] == chance
    assert scored[1].posterior != 0.25
    assert score_answers(tiny_model(), prompt, TARGET, REFERENCES, [nothing]) == [chance]


def test_equal_answers_are_computed_once():
    done: list[int] = []
    twice = [*ANSWERS, *ANSWERS]
    scored = score_answers(tiny_model(), prompt, TARGET, REFERENCES, twice, on_rows=done.append)
    assert scored[: len(ANSWERS)] == scored[len(ANSWERS) :]
    assert sum(done) == len(ANSWERS) * (1 + len(REFERENCES))


def test_posterior_survives_very_unlikely_answers():
    log_p = torch.tensor([[-5000.0, -90_000.0], [-5001.0, -90_000.0]])
    expected = [1 / (1 + torch.exp(torch.tensor(-1.0)).item()), 0.5]
    assert target_posterior(log_p).tolist() == pytest.approx(expected)


def test_chance_level():
    assert chance_level(10) == pytest.approx(100 / 11)
