import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models import families, prefix
from persona_jobs.models.generation import generate
from persona_jobs.models.masking import masked
from persona_jobs.models.prefix import (
    EMPTY_PREFIX,
    PrefixGraph,
    extend_prefix,
    forward_suffixes,
    run_prefix,
)
from persona_jobs.models.topk import hard_top_k, top_k_mask
from support.tiny import (
    ATTENTION,
    FAMILIES,
    LLAMA3_ROPE,
    VARIANTS,
    VOCABULARY,
    tiny_model,
    tiny_tokenizer,
)

LENGTHS = (5, 1, 9, 3)


def rows(shared=12, lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(VOCABULARY, (count,), generator=generator).tolist()

    return draw(shared), [draw(length) for length in lengths]


def plain_batch(model, prefix_ids, suffixes, **options):
    """The library's own right-padded batch of whole sequences, with its attention mask."""
    longest = max(len(suffix) for suffix in suffixes)
    ids = torch.tensor([prefix_ids + suffix + [0] * (longest - len(suffix)) for suffix in suffixes])
    lengths = torch.tensor([len(prefix_ids) + len(suffix) for suffix in suffixes])
    attention_mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return model(input_ids=ids, attention_mask=attention_mask, use_cache=False, **options)


def suffix_logits(output, prefix_ids, suffixes):
    start = len(prefix_ids)
    return torch.cat(
        [output.logits[row, start : start + len(suffix)] for row, suffix in enumerate(suffixes)]
    )


def everywhere(suffixes):
    """All positions of all suffixes."""
    return [range(len(suffix)) for suffix in suffixes]


def forward(model, prefix_ids, suffixes, positions=None):
    """The prefix and the suffixes in one graph; the head runs on all chosen positions."""
    cache = run_prefix(model, prefix_ids)
    return head_of(model, cache, suffixes, positions)


def head_of(model, cache, suffixes, positions=None):
    output = forward_suffixes(model, cache, suffixes, positions=positions or everywhere(suffixes))
    return families.head(model)(output.hidden_states)


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
@pytest.mark.parametrize("shared", [12, 1, 0])
def test_a_shared_prefix_gives_the_plain_batch_s_logits(family, attention, shared):
    model = tiny_model(family, attn_implementation=attention)
    prefix_ids, suffixes = rows(shared)
    with torch.no_grad():
        expected = suffix_logits(plain_batch(model, prefix_ids, suffixes), prefix_ids, suffixes)
        got = forward(model, prefix_ids, suffixes)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_plain_batch_s_logits(variant):
    family, options = VARIANTS[variant]
    model = tiny_model(family, **options)
    prefix_ids, suffixes = rows()
    with torch.no_grad():
        expected = suffix_logits(plain_batch(model, prefix_ids, suffixes), prefix_ids, suffixes)
        got = forward(model, prefix_ids, suffixes)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma2", {"sliding_window": 1000}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 50}),
        ("gemma3_text", {"sliding_window": 1000}),
        ("mistral", {"sliding_window": None}),
        ("phi3", {"sliding_window": None}),
        ("llama", {"rope_parameters": LLAMA3_ROPE}),
    ],
)
def test_what_the_families_differ_in_matters_to_these_tests(family, options):
    prefix_ids, suffixes = rows()
    with torch.no_grad():
        usual = forward(tiny_model(family), prefix_ids, suffixes)
        changed = forward(tiny_model(family, **options), prefix_ids, suffixes)
    assert (usual - changed).abs().max() > 0.01


@pytest.mark.parametrize(
    ("family", "options"),
    [
        VARIANTS["phi3-longrope"],
        (
            "llama",
            {
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
                "max_position_embeddings": 64,
            },
        ),
    ],
)
def test_sequences_whose_length_changes_all_positions_are_refused(family, options):
    model = tiny_model(family, **options)
    prefix_ids, suffixes = rows(shared=50, lengths=(3, 14))
    with torch.no_grad():
        expected = suffix_logits(plain_batch(model, prefix_ids, suffixes), prefix_ids, suffixes)
        got = forward(model, prefix_ids, suffixes)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    _, suffixes = rows(shared=50, lengths=(3, 15))
    with pytest.raises(InputError, match="65 tokens is longer than the 64"):
        forward(model, prefix_ids, suffixes)
    with pytest.raises(InputError, match="more than the model's 64"):
        generate(model, tiny_tokenizer(), [prefix_ids], max_new_tokens=15)


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
def test_under_a_learned_mask_it_equals_the_plain_batch_and_each_row_alone(family, attention):
    model = tiny_model(family, attn_implementation=attention)
    prefix_ids, suffixes = rows()
    scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for shared in (True, False):
        leaf = scores.clone().requires_grad_()
        with masked(model, hard_top_k(leaf, 40)):
            if shared:
                logits = forward(model, prefix_ids, suffixes)
            else:
                logits = suffix_logits(
                    plain_batch(model, prefix_ids, suffixes), prefix_ids, suffixes
                )
        logits.log_softmax(-1)[:, 7].sum().backward()
        gradients.append((logits.detach(), leaf.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=0, atol=2e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-4, atol=2e-4)
    assert gradients[1][1].abs().max() > 1

    with masked(model, top_k_mask(scores, 40)), torch.no_grad():
        alone = [model(torch.tensor([prefix_ids + suffix])).logits[0, 12:] for suffix in suffixes]
    torch.testing.assert_close(gradients[0][0], torch.cat(alone), rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detached_prefix_serves_many_batches_unchanged(family):
    model = tiny_model(family)
    prefix_ids, suffixes = rows()
    with torch.no_grad():
        cache = run_prefix(model, prefix_ids)
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    for seed in range(3):
        _, suffixes = rows(seed=seed, lengths=(seed + 1, 4))
        expected = suffix_logits(plain_batch(model, prefix_ids, suffixes), prefix_ids, suffixes)
        got = head_of(model, cache, suffixes)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, (*cache.keys, *cache.values), strict=True))
    assert cache.length == 12
    assert all(key.shape[0] == 1 for key in cache.keys)


def test_micro_batches_over_one_prefix_run_give_the_same_gradient():
    model = tiny_model()
    prefix_ids, suffixes = rows()
    scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))

    def loss(logits):
        return logits.log_softmax(-1)[:, 7].sum()

    whole = scores.clone().requires_grad_()
    with masked(model, hard_top_k(whole, 40)):
        loss(forward(model, prefix_ids, suffixes)).backward()

    split = scores.clone().requires_grad_()
    with masked(model, hard_top_k(split, 40)):
        graph = PrefixGraph(model, prefix_ids)
        for micro_batch in (suffixes[:2], suffixes[2:]):
            loss(head_of(model, graph.cache, micro_batch)).backward()
        partial = split.grad.clone()
        graph.backward()
    torch.testing.assert_close(split.grad, whole.grad, rtol=1e-4, atol=2e-4)
    assert (partial - whole.grad).abs().max() > 1e-2  # the prefix's own share counts


def test_sliding_window_layers_equal_the_plain_batch():
    options = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    prefix_ids, suffixes = rows()
    for attention in ("sdpa", "eager"):
        model = tiny_model("qwen2", attn_implementation=attention, **options)
        with torch.no_grad():
            expected = suffix_logits(plain_batch(model, prefix_ids, suffixes), prefix_ids, suffixes)
            got = forward(model, prefix_ids, suffixes)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
        whole = tiny_model("qwen2", attn_implementation=attention)
        assert (forward(whole, prefix_ids, suffixes) - got).abs().max() > 0.01


@pytest.mark.parametrize("cut", [0, 1, 7, 12])
@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("qwen3", {}), ("gemma2", {"sliding_window": 4})],
)
def test_an_extended_prefix_equals_one_run_whole(family, options, cut):
    model = tiny_model(family, **options)
    shared, suffixes = rows()
    start = run_prefix(model, shared[:cut])
    extended = extend_prefix(model, start, shared[cut:])
    assert (start.length, extended.length) == (cut, len(shared))
    whole, ours = (
        forward_suffixes(model, prefix, suffixes, positions="last").hidden_states
        for prefix in (run_prefix(model, shared), extended)
    )
    assert torch.allclose(whole, ours, atol=1e-5)


def test_chosen_positions_are_those_of_the_whole_output():
    model = tiny_model()
    prefix_ids, suffixes = rows()
    cache = run_prefix(model, prefix_ids)

    def hidden_states(positions):
        return forward_suffixes(model, cache, suffixes, positions=positions)

    everything = hidden_states(everywhere(suffixes))
    assert everything.counts == list(LENGTHS)
    everything = everything.hidden_states
    ends = torch.tensor(LENGTHS).cumsum(0)
    last = hidden_states("last").hidden_states
    torch.testing.assert_close(last, everything[ends - 1], rtol=0, atol=1e-5)
    chosen = hidden_states([[4, 0], [], range(2, 4), [1]])
    at = [4, 0, 6 + 2, 6 + 3, 15 + 1]
    torch.testing.assert_close(chosen.hidden_states, everything[at], rtol=0, atol=1e-5)
    assert chosen.counts == [2, 0, 2, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_block_outputs_equal_the_library_s_hidden_states(family):
    model = tiny_model(family)
    prefix_ids, suffixes = rows()
    with torch.no_grad():
        cache = run_prefix(model, prefix_ids)
        got = forward_suffixes(model, cache, suffixes, positions="last", block_outputs=True)
        assert not any(block._forward_hooks for block in model.model.layers)
        for row, suffix in enumerate(suffixes):
            ids = torch.tensor([prefix_ids + suffix])
            states = model(ids, output_hidden_states=True).hidden_states[1:]
            expected = torch.stack([state[0, -1] for state in states])
            torch.testing.assert_close(got.block_outputs[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("suffixes", "positions"),
    [([], "last"), ([[1], []], "last"), ([[1, 2]], [[2]]), ([[1, 2]], [[-1]]), ([[1]], [[0], [0]])],
)
def test_rows_and_positions_are_checked(suffixes, positions):
    with pytest.raises(InputError):
        forward_suffixes(tiny_model(), EMPTY_PREFIX, suffixes, positions=positions)


def test_with_one_mask_per_row_no_prefix_can_be_shared():
    model = tiny_model()
    prefix_ids, suffixes = rows()
    masks = top_k_mask(torch.randn(4, 3, 64), 40)
    with masked(model, masks), pytest.raises(InputError, match="4 masks"):
        forward(model, prefix_ids, suffixes)
    with masked(model, masks):
        got = forward(model, [], [prefix_ids + suffix for suffix in suffixes])
    at = 0
    for row, suffix in enumerate(suffixes):
        with masked(model, masks[row]):
            alone = model(torch.tensor([prefix_ids + suffix])).logits[0]
        torch.testing.assert_close(got[at : at + len(alone)], alone, rtol=0, atol=2e-5)
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
def test_split_takes_the_longest_common_prefix(sequences, before, expected):
    shared, suffixes = prefix.split(sequences, before=before)
    assert shared == expected
    assert [shared + suffix for suffix in suffixes] == sequences
    assert all(suffixes)


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_empty_sequences_cannot_be_split(sequences):
    with pytest.raises(InputError):
        prefix.split(sequences)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(family):
    prefix_ids, suffixes = rows()
    mask = top_k_mask(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)), 40)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(family).to(dtype)
        with masked(model, mask), torch.no_grad():
            results.append(forward(model, prefix_ids, suffixes))
    assert results[1].dtype is torch.bfloat16
    error = (results[1].float() - results[0]).norm() / results[0].norm()
    assert error < 0.05
