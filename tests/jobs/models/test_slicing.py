import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models import families
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import slice_model, sliced_copy
from persona_jobs.models.topk import top_k_mask
from support.tiny import FAMILIES, VARIANTS, VOCABULARY, tiny_model


def make_mask(k=40, layers=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return top_k_mask(torch.randn(layers, 64, generator=generator), k)


def tokens(seed=0):
    return torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k", [1, 40, 63])
def test_sliced_equals_masked(variant, k):
    family, options = VARIANTS[variant]
    model, mask, ids = tiny_model(family, **options), make_mask(k), tokens()
    with masked(model, mask):
        expected = model(ids).logits
    slice_model(model, mask)
    torch.testing.assert_close(
        model(ids).logits, expected, rtol=0, atol=1e-4
    )  # norms magnify rounding
    assert model.config.intermediate_size == k


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_are_folded_into_down(family):
    model, mask, ids = tiny_model(family), make_mask(), tokens()
    scales = 0.5 + torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    with masked(model, mask * scales):
        expected = model(ids).logits
    slice_model(model, mask, scales=scales)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-5)


def test_the_kept_channels_keep_their_order_and_weights():
    before = families.ffn_layers(tiny_model(mlp_bias=True))
    model, mask = tiny_model(mlp_bias=True), make_mask()
    slice_model(model, mask.float())
    for old, new, row in zip(before, families.ffn_layers(model), mask, strict=True):
        for was, now in zip(old.expanding, new.expanding, strict=True):
            assert torch.equal(now.weight, was.weight[row])
            assert torch.equal(now.bias, was.bias[row])
            assert now.out_features == 40
            assert now.bias.untyped_storage().nbytes() == 40 * 4
        assert torch.equal(new.down.weight, old.down.weight[:, row])
        assert torch.equal(new.down.bias, old.down.bias)
        assert new.down.in_features == 40
        assert all(not parameter.requires_grad for parameter in new.mlp.parameters())
        # Sliced weights must not keep the whole ones in memory.
        assert new.down.weight.untyped_storage().nbytes() == 32 * 40 * 4


def test_a_fused_projection_keeps_the_channels_of_both_halves():
    before = families.ffn_layers(tiny_model("phi3"))
    model, mask = tiny_model("phi3"), make_mask()
    slice_model(model, mask)
    for old, new, row in zip(before, families.ffn_layers(model), mask, strict=True):
        (was,), (now,) = old.expanding, new.expanding
        assert torch.equal(now.weight[:40], was.weight[:64][row])  # gate
        assert torch.equal(now.weight[40:], was.weight[64:][row])  # up
        assert now.out_features == 80


def test_a_sliced_model_can_be_sliced_again():
    model = tiny_model()
    slice_model(model, make_mask(40))
    second = torch.zeros(3, 40, dtype=torch.bool)
    second[:, ::2] = True
    with masked(model, second):
        expected = model(tokens()).logits
    slice_model(model, second)
    torch.testing.assert_close(model(tokens()).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(3, 64),
        torch.full((3, 64), 0.5),
        torch.ones(2, 64),
        torch.ones(3, 63),
        torch.ones(1, 3, 64),
        torch.eye(3, 64).cumsum(0),
    ],
)
def test_a_bad_mask_is_refused_and_leaves_the_model_unchanged(mask):
    model = tiny_model()
    with pytest.raises(InputError):
        slice_model(model, mask)
    assert model.config.intermediate_size == 64
    assert families.ffn_layers(model)[0].intermediate_size == 64


def test_scales_of_another_shape_are_refused():
    with pytest.raises(InputError, match="scales"):
        slice_model(tiny_model(), make_mask(), scales=torch.ones(3, 63))


def test_a_sliced_copy_equals_masked_and_leaves_the_dense_model_unchanged():
    dense = tiny_model()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    with torch.no_grad():
        sliced = sliced_copy(dense, make_mask())
        with masked(dense, make_mask()):
            expected = dense(tokens()).logits
        assert torch.allclose(sliced(tokens()).logits, expected, atol=1e-4)
    assert dense.config.intermediate_size == 64
    assert sliced.config.intermediate_size == 40
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_sliced_copy_shares_everything_but_the_ffn():
    dense = tiny_model()
    own = dict(dense.named_parameters())
    for name, parameter in sliced_copy(dense, make_mask()).named_parameters():
        shared = parameter.data_ptr() == own[name].data_ptr()
        assert shared == ("mlp" not in name), name


def test_sliced_copy_folds_scales_in():
    dense, mask = tiny_model(), make_mask()
    scales = torch.rand(3, 64) + 0.5
    with torch.no_grad():
        sliced = sliced_copy(dense, mask, scales=scales)
        with masked(dense, mask * scales):
            assert torch.allclose(sliced(tokens()).logits, dense(tokens()).logits, atol=1e-4)
