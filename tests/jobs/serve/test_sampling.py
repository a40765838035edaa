import pytest
import torch
from transformers import (
    GenerationConfig,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from persona_jobs.serve.protocol import ChatRequest
from persona_jobs.serve.sampling import (
    MIN_TEMPERATURE,
    Sampling,
    TokenChooser,
    candidates,
    checkpoint_defaults,
    of_request,
    penalized,
)


def request(**fields):
    return ChatRequest(messages=[{"role": "user", "content": "hello"}], **fields)


def scores_of(seed, vocabulary=50):
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def test_penalties_count_only_the_answer():
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=1.0)
    scores = penalized(torch.full((4,), 10.0), [3, 3], [1, 1, 2], sampling)
    assert scores.tolist() == [10.0, 7.5, 8.5, 10.0]


def test_the_repetition_penalty_is_the_library_s_own():
    scores, prompt, answer = scores_of(0), [3, 3, 7], [11, 3]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(
        torch.tensor([prompt + answer]), scores.unsqueeze(0).clone()
    )[0]
    found = penalized(scores, prompt, answer, Sampling(repetition_penalty=1.3))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.05},
        {"top_k": 20, "top_p": 0.8},
        {"top_k": 20, "top_p": 0.95, "min_p": 0.1},
        {"top_k": 1},
        {"top_k": 1000},
        {"top_p": 1e-300},
        {"min_p": 1.0},
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_kept_tokens_are_those_of_the_library(settings, seed):
    scores = scores_of(seed)
    expected = scores.unsqueeze(0).clone()
    if "top_k" in settings:
        expected = TopKLogitsWarper(settings["top_k"])(None, expected)
    if "top_p" in settings:
        expected = TopPLogitsWarper(settings["top_p"])(None, expected)
    if "min_p" in settings:
        expected = MinPLogitsWarper(settings["min_p"])(None, expected)
    kept = expected[0].isfinite().nonzero().flatten().tolist()
    values, tokens = candidates(scores, Sampling(**settings))
    assert sorted(tokens.tolist()) == kept
    assert torch.equal(values, scores[tokens])


def test_tokens_are_drawn_by_their_probability():
    scores = torch.tensor([1.0, 3.0, 2.0, -2.0])
    chooser = TokenChooser(Sampling(temperature=2.0, top_k=3, seed=5), [0])
    drawn = torch.bincount(
        torch.tensor([chooser.choose(scores, []) for _ in range(4000)]), minlength=4
    )
    expected = (scores / 2).softmax(-1)
    expected[3] = 0
    expected = expected / expected.sum()
    assert torch.allclose(drawn / 4000, expected, atol=0.03)
    assert drawn[3] == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-9},
        {"temperature": 1e-300},
        {"temperature": 2, "min_p": 1.0},
        {"temperature": 1e-9, "presence_penalty": 2, "frequency_penalty": -2},
        {"temperature": 0, "repetition_penalty": 0.1},
        {"top_k": 2**31 - 1, "top_p": 1e-300},
    ],
)
def test_extreme_settings_choose_a_token_of_the_vocabulary(settings):
    chosen = of_request(request(**settings, seed=1), Sampling())
    chooser = TokenChooser(chosen, [1, 2])
    answer = []
    for seed in range(5):
        answer.append(chooser.choose(scores_of(seed), answer))
    assert all(0 <= token < 50 for token in answer)


def test_a_temperature_next_to_zero_is_raised_and_takes_the_likeliest_token():
    chosen = of_request(request(temperature=1e-9), Sampling())
    assert chosen.temperature == MIN_TEMPERATURE
    scores = torch.tensor([1.0, 3.0, 2.0])
    assert TokenChooser(chosen, [0]).choose(scores, []) == 1


def test_checkpoint_settings_are_the_defaults_and_a_request_wins():
    defaults = checkpoint_defaults(GenerationConfig(temperature=0.6, top_k=20, do_sample=True))
    assert defaults == Sampling(temperature=0.6, top_k=20)
    chosen = of_request(request(temperature=0, top_p=0.5, seed=3), defaults)
    assert chosen == Sampling(temperature=0, top_p=0.5, top_k=20, seed=3)


def test_without_any_setting_the_defaults_of_the_api_apply():
    assert checkpoint_defaults(GenerationConfig()) == Sampling(temperature=1.0, top_p=1.0, top_k=0)


def test_a_request_without_a_seed_has_a_new_random_seed():
    seeds = {of_request(request(), Sampling()).seed for _ in range(5)}
    assert len(seeds) == 5
