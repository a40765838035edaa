import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models import prefix
from persona_jobs.models.masking import masked
from persona_jobs.models.prefix import (
    EMPTY_PREFIX,
    PrefixGraph,
    forward_rests,
    forward_with_prefix,
    run_prefix,
)
from persona_jobs.models.topk import hard_top_k, top_k_mask
from support.tiny import FAMILIES, VOCABULARY, tiny_model

LENGTHS = (5, 1, 9, 3)
ATTENTION = ("sdpa", "eager")


def rows(shared=12, lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(VOCABULARY, (count,), generator=generator).tolist()

    return draw(shared), [draw(length) for length in lengths]


def plain_batch(model, prefix_ids, rests, **options):
    """The library's own right-padded batch of whole sequences, with its attention mask."""
    longest = max(len(rest) for rest in rests)
    ids = torch.tensor([prefix_ids + rest + [0] * (longest - len(rest)) for rest in rests])
    lengths = torch.tensor([len(prefix_ids) + len(rest) for rest in rests])
    attention_mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return model(input_ids=ids, attention_mask=attention_mask, use_cache=False, **options)


def rest_logits(output, prefix_ids, rests):
    start = len(prefix_ids)
    return torch.cat(
        [output.logits[row, start : start + len(rest)] for row, rest in enumerate(rests)]
    )


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [12, 1, 0])
def test_equals_the_plain_batch(family, attention, shared):
    model = tiny_model(family, attn_implementation=attention)
    prefix_ids, rests = rows(shared)
    with torch.no_grad():
        expected = rest_logits(plain_batch(model, prefix_ids, rests), prefix_ids, rests)
        got = forward_with_prefix(model, prefix_ids, rests)
    torch.testing.assert_close(got.logits, expected, rtol=0, atol=2e-5)
    assert got.counts == list(LENGTHS)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_each_row_alone_and_the_plain_batch_under_a_learned_mask(family, attention):
    model = tiny_model(family, attn_implementation=attention)
    prefix_ids, rests = rows()
    scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for shared in (True, False):
        leaf = scores.clone().requires_grad_()
        with masked(model, hard_top_k(leaf, 40)):
            if shared:
                logits = forward_with_prefix(model, prefix_ids, rests).logits
            else:
                logits = rest_logits(plain_batch(model, prefix_ids, rests), prefix_ids, rests)
        logits.log_softmax(-1)[:, 7].sum().backward()
        gradients.append((logits.detach(), leaf.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=0, atol=2e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-4, atol=2e-4)
    assert gradients[1][1].abs().max() > 1

    with masked(model, top_k_mask(scores, 40)), torch.no_grad():
        alone = [model(torch.tensor([prefix_ids + rest])).logits[0, 12:] for rest in rests]
    torch.testing.assert_close(gradients[0][0], torch.cat(alone), rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detached_prefix_serves_many_batches_unchanged(family):
    model = tiny_model(family)
    prefix_ids, rests = rows()
    with torch.no_grad():
        cache = run_prefix(model, prefix_ids)
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    for seed in range(3):
        _, rests = rows(seed=seed, lengths=(seed + 1, 4))
        expected = rest_logits(plain_batch(model, prefix_ids, rests), prefix_ids, rests)
        got = forward_rests(model, cache, rests).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, (*cache.keys, *cache.values), strict=True))
    assert cache.length == 12
    assert all(key.shape[0] == 1 for key in cache.keys)


def test_micro_batches_over_one_prefix_run_give_the_same_gradient():
    model = tiny_model()
    prefix_ids, rests = rows()
    scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))

    def loss(output):
        return output.logits.log_softmax(-1)[:, 7].sum()

    whole = scores.clone().requires_grad_()
    with masked(model, hard_top_k(whole, 40)):
        loss(forward_with_prefix(model, prefix_ids, rests)).backward()

    split = scores.clone().requires_grad_()
    with masked(model, hard_top_k(split, 40)):
        graph = PrefixGraph(model, prefix_ids)
        for micro_batch in (rests[:2], rests[2:]):
            loss(forward_rests(model, graph.cache, micro_batch)).backward()
        partial = split.grad.clone()
        graph.backward()
    torch.testing.assert_close(split.grad, whole.grad, rtol=1e-4, atol=2e-4)
    assert (partial - whole.grad).abs().max() > 1e-2  # the prefix's own share counts


def test_sliding_window_layers():
    options = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    prefix_ids, rests = rows()
    for attention in ATTENTION:
        model = tiny_model("qwen2", attn_implementation=attention, **options)
        with torch.no_grad():
            expected = rest_logits(plain_batch(model, prefix_ids, rests), prefix_ids, rests)
            got = forward_with_prefix(model, prefix_ids, rests).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
        whole = tiny_model("qwen2", attn_implementation=attention)
        assert (forward_with_prefix(whole, prefix_ids, rests).logits - got).abs().max() > 0.01


def test_positions():
    model = tiny_model()
    prefix_ids, rests = rows()
    everything = forward_with_prefix(model, prefix_ids, rests)
    ends = torch.tensor(LENGTHS).cumsum(0)
    last = forward_with_prefix(model, prefix_ids, rests, positions="last")
    torch.testing.assert_close(last.logits, everything.logits[ends - 1], rtol=0, atol=1e-5)
    chosen = forward_with_prefix(model, prefix_ids, rests, positions=[[4, 0], [], range(2, 4), [1]])
    at = [4, 0, 6 + 2, 6 + 3, 15 + 1]
    torch.testing.assert_close(chosen.logits, everything.logits[at], rtol=0, atol=1e-5)
    torch.testing.assert_close(chosen.hidden, everything.hidden[at], rtol=0, atol=1e-5)
    assert chosen.counts == [2, 0, 2, 1]
    assert forward_with_prefix(model, prefix_ids, rests, logits=False).logits is None


@pytest.mark.parametrize("family", FAMILIES)
def test_block_states_equal_output_hidden_states(family):
    model = tiny_model(family)
    prefix_ids, rests = rows()
    with torch.no_grad():
        got = forward_with_prefix(model, prefix_ids, rests, logits=False, block_states=True)
        assert not any(block._forward_hooks for block in model.model.layers)
        for row, rest in enumerate(rests):
            ids = torch.tensor([prefix_ids + rest])
            states = model(ids, output_hidden_states=True).hidden_states[1:]
            expected = torch.stack([state[0, -1] for state in states])
            torch.testing.assert_close(got.block_states[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rests", "positions"),
    [([], "all"), ([[1], []], "all"), ([[1, 2]], [[2]]), ([[1, 2]], [[-1]]), ([[1]], [[0], [0]])],
)
def test_rows_and_positions_are_checked(rests, positions):
    with pytest.raises(InputError):
        forward_rests(tiny_model(), EMPTY_PREFIX, rests, positions=positions)


def test_a_mask_a_row_cannot_share_a_prefix():
    model = tiny_model()
    prefix_ids, rests = rows()
    masks = top_k_mask(torch.randn(4, 3, 64), 40)
    with masked(model, masks), pytest.raises(InputError, match="4 masks"):
        forward_with_prefix(model, prefix_ids, rests)
    with masked(model, masks):
        got = forward_with_prefix(model, [], [prefix_ids + rest for rest in rests])
    at = 0
    for row, rest in enumerate(rests):
        with masked(model, masks[row]):
            alone = model(torch.tensor([prefix_ids + rest])).logits[0]
        torch.testing.assert_close(got.logits[at : at + len(alone)], alone, rtol=0, atol=2e-5)
        at += len(alone)


@pytest.mark.parametrize(
    ("sequences", "before", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], None, [1, 2]),
        ([[1, 2, 3], [1, 2, 3]], None, [1, 2]),
        ([[1, 2], [1, 2, 3]], None, [1]),
        ([[1], [2]], None, []),
        ([[7, 8, 9]], None, [7, 8]),
        ([[1, 2, 3, 4], [1, 2, 3, 5]], [3, 3], [1, 2]),
        ([[1, 2, 3, 4], [1, 2, 3, 5]], [3, 1], []),
    ],
)
def test_split(sequences, before, expected):
    shared, rests = prefix.split(sequences, before=before)
    assert shared == expected
    assert [shared + rest for rest in rests] == sequences
    assert all(rests)


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_split_of_nothing(sequences):
    with pytest.raises(InputError):
        prefix.split(sequences)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(family):
    prefix_ids, rests = rows()
    mask = top_k_mask(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)), 40)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(family).to(dtype)
        with masked(model, mask), torch.no_grad():
            results.append(forward_with_prefix(model, prefix_ids, rests).logits)
    assert results[1].dtype is torch.bfloat16
    error = (results[1].float() - results[0]).norm() / results[0].norm()
    assert error < 0.05
