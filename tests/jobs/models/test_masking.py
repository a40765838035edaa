import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models.masking import masked
from persona_jobs.models.topk import hard_top_k, top_k_mask
from support.tiny import FAMILIES, VOCABULARY, tiny_model


def random_masks(*shape, k=40, seed=0):
    return top_k_mask(torch.randn(*shape, 64, generator=torch.Generator().manual_seed(seed)), k)


def tokens(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


def zeroed(model, mask):
    """The same model with left-out channels' columns of down_proj set to zero."""
    with torch.no_grad():
        for block, row in zip(model.model.layers, mask, strict=True):
            block.mlp.down_proj.weight[:, ~row] = 0
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_equals_zeroed_columns(family):
    mask, ids = random_masks(3), tokens(2, 9)
    model = tiny_model(family, seed=1)
    with masked(model, mask):
        got = model(ids).logits
    expected = zeroed(tiny_model(family, seed=1), mask)(ids).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - model(ids).logits).abs().max() > 0.1  # the mask matters


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_equals_its_rows_one_by_one(family):
    model, masks, ids = tiny_model(family), random_masks(4, 3), tokens(4, 7)
    with masked(model, masks):
        together = model(ids).logits
    for row in range(4):
        with masked(model, masks[row]):
            alone = model(ids[row : row + 1]).logits[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_a_mask_may_have_any_number_format(dtype):
    model, mask, ids = tiny_model(), random_masks(3), tokens(1, 5)
    with masked(model, mask.float()):
        expected = model(ids).logits
    with masked(model, mask.to(dtype)):
        assert torch.equal(model(ids).logits, expected)


def test_scales_multiply_the_activation():
    model, ids = tiny_model(), tokens(1, 5)
    scales = 0.5 + torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    with masked(model, scales):
        got = model(ids).logits
    with torch.no_grad():
        for block, row in zip(model.model.layers, scales, strict=True):
            block.mlp.down_proj.weight.mul_(row)
    torch.testing.assert_close(got, model(ids).logits, rtol=0, atol=1e-5)


def test_only_the_mask_gets_gradients_and_they_are_right():
    model, ids = tiny_model().double(), tokens(2, 6)
    gates = torch.rand(3, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(values):
        with masked(model, values):
            return model(ids).logits.logsumexp(-1).sum()

    leaf = gates.clone().requires_grad_()
    loss(leaf).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    for layer, channel in ((0, 3), (1, 17), (2, 63)):
        step = torch.zeros_like(gates)
        step[layer, channel] = 1e-3  # no less: the library's norms round to float32
        numeric = (loss(gates + step) - loss(gates - step)) / 2e-3
        torch.testing.assert_close(leaf.grad[layer, channel], numeric, rtol=1e-2, atol=2e-3)


def test_straight_through_gradient_equals_the_one_by_hand():
    """d loss / d z = sum over tokens of h * (down_weight^T d loss / d ffn_output)."""
    model, ids = tiny_model(layers=1), tokens(2, 6)
    scores = torch.randn(1, 64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    target = tokens(2, 6, seed=1)
    seen = {}
    down = model.model.layers[0].mlp.down_proj

    def keep(_, args, output):
        seen["input"] = args[0].detach()  # after the mask
        output.retain_grad()
        seen["output"] = output

    with masked(model, hard_top_k(scores, 40)):
        handle = down.register_forward_hook(keep)
        logits = model(ids).logits
        handle.remove()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()

    before = {}
    handle = down.register_forward_pre_hook(lambda _, args: before.update(h=args[0].detach()))
    with torch.no_grad():
        model(ids)  # one layer: the FFN's input doesn't depend on its mask
    handle.remove()
    by_hand = (before["h"] * (seen["output"].grad @ down.weight)).sum(dim=(0, 1))
    torch.testing.assert_close(scores.grad[0], by_hand, rtol=1e-4, atol=1e-7)
    kept = top_k_mask(scores, 40)[0]
    torch.testing.assert_close(seen["input"], before["h"] * kept)
    assert scores.grad[0, ~kept].abs().max() > 0  # left-out channels learn as well


def test_the_model_is_restored_also_after_an_error():
    model, ids = tiny_model(), tokens(1, 4)
    expected = model(ids).logits
    with pytest.raises(ZeroDivisionError), masked(model, random_masks(3)):
        raise ZeroDivisionError
    assert torch.equal(model(ids).logits, expected)
    assert all(not block.mlp.down_proj._forward_pre_hooks for block in model.model.layers)
    with masked(model, random_masks(3)):  # and it can be masked again
        pass


def test_masking_twice_is_refused_and_harmless():
    model, ids, mask = tiny_model(), tokens(1, 4), random_masks(3)
    with masked(model, mask):
        expected = model(ids).logits
        with pytest.raises(RuntimeError, match="masked already"), masked(model, mask):
            pass
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("shape", [(2, 64), (3, 63), (64,), (1, 1, 3, 64), (3,)])
def test_a_mask_of_another_model_is_refused(shape):
    with pytest.raises(InputError, match="3 layers of 64"), masked(tiny_model(), torch.ones(shape)):
        pass


def test_masks_and_rows_must_match():
    model = tiny_model()
    with masked(model, random_masks(2, 3)), pytest.raises(InputError, match="2 masks"):
        model(tokens(3, 4))
    with masked(model, random_masks(1, 3)), pytest.raises(InputError, match="1 masks"):
        model(tokens(3, 4))  # never silently broadcast
