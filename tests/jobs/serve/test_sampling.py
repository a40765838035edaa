import pytest
import torch
from transformers import GenerationConfig

from persona_jobs.serve.protocol import ChatRequest
from persona_jobs.serve.sampling import (
    AnswerPenalties,
    Sampling,
    checkpoint_defaults,
    generation_config,
    of_request,
)


def request(**fields):
    return ChatRequest(messages=[{"role": "user", "content": "hello"}], **fields)


def test_penalties_count_only_the_answer():
    penalties = AnswerPenalties(prompt_tokens=2, presence=0.5, frequency=1.0)
    ids = torch.tensor([[3, 3, 1, 1, 2]])  # two tokens of the prompt, three of the answer
    scores = penalties(ids, torch.tensor([[10.0, 10.0, 10.0, 10.0]]))
    assert scores.tolist() == [[10.0, 7.5, 8.5, 10.0]]


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


@pytest.mark.parametrize(("temperature", "sampled"), [(0, False), (0.3, True)])
def test_temperature_zero_is_greedy(temperature, sampled):
    config = generation_config(Sampling(temperature=temperature), 5)
    assert config.do_sample is sampled
    assert config.max_new_tokens == 5
