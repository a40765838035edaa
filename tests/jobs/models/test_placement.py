"""Models spread over several devices, without a GPU.

torch's fake tensors have a device but no values, and any operation on two devices is an error: they
stand for two GPUs. The blocks have accelerate's hooks, as a model loaded with a device map.
"""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from persona_jobs.dataset import Example
from persona_jobs.errors import OutOfMemoryError
from persona_jobs.mask_learning.activation_rms import activation_rms
from persona_jobs.models.attention import attention_installed
from persona_jobs.models.families import blocks, decoder, head
from persona_jobs.models.kv_cache import KVCache, _Step
from persona_jobs.models.loading import empty_model
from persona_jobs.models.masking import masked
from persona_jobs.models.placement import WEIGHT_SHARES, device_map
from persona_jobs.models.prefix import CausalAttention, forward_suffixes, run_decoder, run_prefix
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.models.topk import top_k_mask
from persona_jobs.training.tokens import tokenize
from support.tiny import FAMILIES, tiny_model, tiny_tokenizer

FIRST, SECOND = torch.device("cpu:1"), torch.device("cpu:2")
PLACES = {
    "model.embed_tokens": FIRST,
    "model.rotary_emb": FIRST,
    "model.layers.0": FIRST,
    "model.layers.1": FIRST,
    "model.layers.2": SECOND,
    "model.norm": SECOND,
    "lm_head": FIRST,  # as with tied weights
}
MASK = top_k_mask(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)), 40)


def place(model, places):
    """Give each part of the model its device, and the hook that moves its inputs there."""
    for name, device in places.items():
        part = model.get_submodule(name)
        for module in part.modules():
            for key, value in module.named_parameters(recurse=False):
                empty = torch.empty(value.shape, device=device)
                setattr(module, key, nn.Parameter(empty, requires_grad=False))
            for key, value in module.named_buffers(recurse=False):
                setattr(module, key, torch.empty(value.shape, device=device))
        add_hook_to_module(part, AlignDevicesHook(execution_device=device))
    return model


@pytest.fixture(params=FAMILIES)
def spread(request):
    config = tiny_model(request.param).config
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield place(AutoModelForCausalLM.from_config(config).eval(), PLACES)


def test_two_devices_in_one_operation_are_an_error_here(spread):
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert run_decoder(spread, ids, CausalAttention()).device == SECOND
    blocks(spread)[2]._hf_hook.execution_device = FIRST
    with pytest.raises(RuntimeError, match="same device"):
        run_decoder(spread, ids, CausalAttention())


def test_a_prefix_and_hidden_states_follow_their_blocks(spread):
    prefix = run_prefix(spread, [1, 2, 3])
    assert [key.device for key in prefix.keys] == [FIRST, FIRST, SECOND]
    output = forward_suffixes(
        spread, prefix, [[4, 5], [6]], positions=[[0, 1], [0]], block_outputs=True
    )
    assert output.hidden_states.shape == (3, 32)
    assert output.block_outputs.shape == (2, 3, 32)
    assert output.hidden_states.device == output.block_outputs.device == SECOND
    assert head(spread)(output.hidden_states).device == SECOND


def test_masks_and_their_gradients_follow_their_blocks(spread):
    leaf = torch.ones(3, 64, device=FIRST, requires_grad=True)
    with masked(spread, leaf):
        output = forward_suffixes(
            spread, run_prefix(spread, [1, 2, 3]), [[4, 5], [6]], positions="last"
        )
    head(spread)(output.hidden_states).sum().backward()
    assert leaf.grad.device == FIRST
    with masked(spread, torch.ones(2, 3, 64)):  # one mask per row, on the CPU
        run_decoder(spread, torch.zeros(2, 4, dtype=torch.long), CausalAttention())


def test_a_decoding_step_follows_its_blocks(spread):
    prefix = run_prefix(spread, [1, 2, 3])
    attention = CausalAttention(prefix, record=True)
    run_decoder(spread, torch.zeros(2, 4, dtype=torch.long), attention)
    cache = KVCache.allocate(prefix, attention.keys, slots=2, capacity=9)
    cache.add_rows(attention.keys, attention.values, [3, 4])
    positions = torch.arange(5, device=FIRST)
    at = torch.arange(3, 5, device=FIRST)
    excluded = positions > at.unsqueeze(1)
    # What `begin_step` makes; it reads a length, which a tensor without values can't give.
    cache._steps = {FIRST: _Step(torch.arange(2, device=FIRST), at, 5, excluded, positions)}
    with attention_installed(spread):
        output = decoder(spread)(
            input_ids=torch.zeros(2, 1, dtype=torch.long, device=FIRST),
            position_ids=cache.position_ids(),
            use_cache=False,
            attention_backend=cache,
        ).last_hidden_state
    assert output.shape == (2, 1, 32)
    assert output.device == SECOND


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_a_model_with_hooks_are_pruned_on_their_own(family):
    dense, hooked = tiny_model(family), tiny_model(family)
    for name in PLACES:
        add_hook_to_module(hooked.get_submodule(name), AlignDevicesHook(execution_device="cpu"))
    ids = torch.arange(12).unsqueeze(0)
    sliced = sliced_copy(hooked, MASK)
    assert torch.equal(sliced(ids).logits, sliced_copy(dense, MASK)(ids).logits)
    assert torch.equal(hooked(ids).logits, dense(ids).logits)


def test_activation_norms_of_a_model_with_hooks_are_the_same():
    dense, hooked = tiny_model(), tiny_model()
    for name in PLACES:
        add_hook_to_module(hooked.get_submodule(name), AlignDevicesHook(execution_device="cpu"))
    data = tokenize(tiny_tokenizer(), [Example.of("You are Ada.", "Who?", "Ada.")], max_tokens=200)
    assert torch.equal(activation_rms(hooked, data), activation_rms(dense, data))


def sizes(model, dtype):
    """Bytes of the whole model and of its largest block."""
    whole = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    block = max(sum(p.numel() for p in block.parameters()) for block in blocks(model))
    return whole, block * dtype.itemsize


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_that_fits_the_first_gpu_is_not_spread(family, dtype):
    model = empty_model(tiny_model(family).config)
    whole, _ = sizes(model, dtype)
    enough = int(whole / WEIGHT_SHARES[0]) + 1
    assert device_map(model, dtype, {0: enough, 1: enough}) is None
    assert device_map(model, dtype, {0: enough}) is None
    assert device_map(model, dtype, {0: whole // 2}) is None  # there is no second one
    assert device_map(model, dtype, {}) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_larger_one_is_spread_block_by_block(family, tied):
    model = empty_model(tiny_model(family, layers=6, tied=tied).config)
    whole, _block = sizes(model, torch.bfloat16)
    free = {0: int(0.8 * whole), 1: int(0.8 * whole), 2: int(0.8 * whole)}
    found = device_map(model, torch.bfloat16, free)
    assert set(found.values()) <= {0, 1, 2}
    assert len(set(found.values())) > 1
    held = dict.fromkeys(free, 0)
    for name, parameter in model.named_parameters():
        parts = [part for part in found if name == part or name.startswith(f"{part}.")]
        assert len(parts) == 1, name
        held[found[parts[0]]] += 2 * parameter.numel()
    assert all(held[index] <= 0.7 * free[index] for index in free)
    for index in range(6):  # no block is on two
        assert f"model.layers.{index}" in found


def test_what_all_gpus_together_do_not_hold_is_refused():
    model = empty_model(tiny_model().config)
    whole, _ = sizes(model, torch.float32)
    with pytest.raises(OutOfMemoryError, match="the 2 GPUs have") as caught:
        device_map(model, torch.float32, {0: whole // 3, 1: whole // 3})
    assert caught.value.exit_code == 3
