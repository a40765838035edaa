import pytest
import torch

from persona_jobs.models.sampling import draw_uniforms, next_tokens, row_stream


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 1.0]])
    assert next_tokens(logits, 0.0).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_distribution(temperature):
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    uniforms = draw_uniforms([row_stream(0, row) for row in range(20_000)], 3)
    drawn = next_tokens(logits.expand(20_000, 3), temperature, uniforms)
    shares = drawn.bincount(minlength=3) / 20_000
    expected = (logits / temperature).softmax(-1)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.015)


def test_an_impossible_token_is_never_drawn():
    logits = torch.full((200, 700), float("-inf"))
    logits[:, [5, 300]] = 0.0
    uniforms = draw_uniforms([row_stream(0, row) for row in range(200)], 700)
    uniforms[:, 7] = 1 - 2**-24
    assert set(next_tokens(logits, 1.0, uniforms).tolist()) == {5, 300}


def test_the_ends_of_the_uniforms_range_are_harmless():
    logits = torch.zeros(2, 3)
    uniforms = torch.tensor([[0.0, 0.5, 0.0], [0.5, 1 - 2**-24, 0.5]])
    assert next_tokens(logits, 1.0, uniforms).tolist() == [1, 1]


def test_streams_depend_on_seed_and_row_only():
    together = draw_uniforms([row_stream(1, 2), row_stream(1, 3)], 5)
    assert torch.equal(draw_uniforms([row_stream(1, 3)], 5)[0], together[1])
    streams = [row_stream(seed, row) for seed in (0, 1) for row in (0, 1, 10)]
    assert len({tuple(row.tolist()) for row in draw_uniforms(streams, 3)}) == 6
    stream = row_stream(0, 0)
    assert not torch.equal(draw_uniforms([stream], 5), draw_uniforms([stream], 5))
