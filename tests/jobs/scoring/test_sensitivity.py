"""Persona sensitivity against a plain implementation of the paper's formula."""

import pytest
import torch
import torch.nn.functional as F

from persona_jobs.models.chat import messages, render
from persona_jobs.scoring.last_token import last_token_hidden_states
from persona_jobs.scoring.sensitivity import accumulate, block_range, block_scores, rank
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

TARGET = "You are a captain who speaks in salty words."
REFERENCES = ["You are a monk.", "You are an opera diva of great temper.", "You fix bicycles."]
QUERIES = [
    "Who are you?",
    "What is two plus two?",
    "Tell me a story about the sea and the wind.",
    "Why?",
    "Name three colors.",
]


def plain_scores(model, tokenizer, blocks):
    """s(q) = 1/(B r) sum_b sum_j (1 - cos(h_Pj^b(q), h_target^b(q))), one sequence at a time."""

    def states(persona, query):
        ids = torch.tensor([render(tokenizer, messages(persona, query))])
        output = model(ids, output_hidden_states=True)
        return torch.stack([hidden[0, -1] for hidden in output.hidden_states[1:]])

    scores = []
    for query in QUERIES:
        target = states(TARGET, query)
        total = 0.0
        for reference in REFERENCES:
            other = states(reference, query)
            for block in blocks:
                total += 1 - float(F.cosine_similarity(other[block], target[block], dim=0))
        scores.append(total / (len(blocks) * len(REFERENCES)))
    return scores


def fast_scores(model, tokenizer, blocks):
    total = torch.zeros(len(QUERIES), len(blocks), model.config.hidden_size)
    for reference in REFERENCES:
        batches = last_token_hidden_states(model, tokenizer, reference, QUERIES)
        accumulate(batches, total, blocks)
    mean_unit = total / len(REFERENCES)
    scores = torch.zeros(len(QUERIES), len(blocks))
    for rows, states in last_token_hidden_states(model, tokenizer, TARGET, QUERIES):
        scores[rows] = block_scores(mean_unit[rows], states[:, blocks.start : blocks.stop])
    return scores


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("first", "last"), [(0, None), (1, 2)])
def test_scores_equal_the_plain_formula(family, first, last):
    # Windows that reach the persona from the last token.
    window = {} if family.startswith(("llama", "qwen")) else {"sliding_window": 128}
    model, tokenizer = tiny_model(family, **window), tiny_tokenizer()
    blocks = block_range(3, first, last)
    expected = torch.tensor(plain_scores(model, tokenizer, blocks))
    actual = fast_scores(model, tokenizer, blocks).mean(dim=1)
    assert torch.allclose(actual, expected, atol=1e-4, rtol=0)
    assert expected.max() - expected.min() > 1e-3, "the queries must differ for this to mean much"


def test_a_persona_equal_to_every_reference_scores_zero():
    states = torch.randn(4, 3, 8)
    mean_unit = F.normalize(states, dim=-1)
    assert torch.allclose(block_scores(mean_unit, 5 * states), torch.zeros(4, 3), atol=1e-6)


def test_ranking_keeps_the_top_share_and_breaks_ties_by_order():
    scores = torch.tensor(
        [[0.125, 0.375], [0.875, 0.625], [0.25, 0.25], [0.75, 0.75], [0.0, 0.125]]
    )
    ranking = rank(scores, 40)
    assert ranking.order == [1, 3, 0, 2, 4]
    assert ranking.kept == 2
    assert ranking.scores == pytest.approx([0.25, 0.75, 0.25, 0.75, 0.0625])


def test_at_least_one_query_is_kept():
    assert rank(torch.rand(3, 2), 1).kept == 1


@pytest.mark.parametrize(("first", "last"), [(3, None), (2, 1), (0, 3)])
def test_a_block_range_outside_the_model_is_refused(first, last):
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        block_range(3, first, last)
