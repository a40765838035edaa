import pytest
import torch

from persona_jobs.models.families import head
from persona_jobs.models.row_cache import RowCache, run_rows
from support.tiny import FAMILIES, tiny_model


def tokens(seed, count):
    return torch.randint(256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits(model, hidden_states):
    return head(model)(hidden_states)


def whole(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_of_several_sequences_equal_each_whole_sequence(family):
    model = tiny_model(family)
    sequences = [tokens(0, 200), tokens(1, 7), tokens(2, 90)]
    caches = [RowCache(len(ids)) for ids in sequences]
    chunks = [[(0, 0, 64), (1, 0, 6)], [(0, 64, 65), (1, 6, 7), (2, 0, 50)], [(2, 50, 90)]]
    with torch.inference_mode():
        for chunk in chunks:
            rows = [(caches[row], sequences[row][start:end]) for row, start, end in chunk]
            found = logits(model, run_rows(model, rows))
            for scores, (row, _, end) in zip(found, chunk, strict=True):
                assert close(scores, whole(model, sequences[row][:end])[-1])
                assert caches[row].length == end
    assert caches[1].capacity <= 7


def test_a_sliding_window_hides_older_tokens():
    config = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    model = tiny_model("qwen2", **config)
    assert "sliding_attention" in model.config.layer_types
    ids = tokens(3, 80)
    cache = RowCache(len(ids))
    with torch.inference_mode():
        for start, end in [(0, 40), (40, 41), (41, 70), (70, 71), (71, 80)]:
            found = logits(model, run_rows(model, [(cache, ids[start:end])]))[0]
            assert close(found, whole(model, ids[:end])[-1])


def test_a_copy_continues_apart_from_its_source():
    model = tiny_model()
    first, second = tokens(4, 120), tokens(5, 60)
    source = RowCache(200)
    with torch.inference_mode():
        run_rows(model, [(source, first)])
        copied = source.copy(50, 110)
        found = logits(model, run_rows(model, [(copied, second), (source, second)]))
    assert close(found[0], whole(model, first[:50] + second)[-1])
    assert close(found[1], whole(model, first + second)[-1])
    assert (copied.length, source.length) == (110, 180)
    assert copied.capacity == 110
    assert source.capacity <= 200


def test_a_pass_that_fails_leaves_the_caches_as_they_were():
    model = tiny_model()
    ids = tokens(6, 30)
    cache = RowCache(40)
    with torch.inference_mode():
        run_rows(model, [(cache, ids[:20])])

        def fail(_module, _args):
            raise RuntimeError("cause")

        hook = model.model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="cause"):
            run_rows(model, [(cache, tokens(7, 20))])
        hook.remove()
        assert cache.length == 20
        found = logits(model, run_rows(model, [(cache, ids[20:])]))[0]
    assert close(found, whole(model, ids)[-1])
