import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from persona_jobs.evaluation.baseline import make_baseline
from persona_jobs.models.checkpoint_size import checkpoint_bytes
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.masking import masked
from persona_jobs.models.slicing import sliced_copy
from support.tiny import tiny_model

IDS = torch.arange(20).unsqueeze(0)


def _mask(width: int = 40) -> torch.Tensor:
    scores = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 64, dtype=torch.bool)
    return mask.scatter_(1, scores.argsort(dim=1)[:, :width], True)


def test_cut_equals_masked_and_leaves_the_dense_model_alone():
    dense = tiny_model()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    with torch.no_grad():
        sliced = sliced_copy(dense, _mask())
        with masked(dense, _mask()):
            expected = dense(IDS).logits
        assert torch.allclose(sliced(IDS).logits, expected, atol=1e-4)
    assert dense.config.intermediate_size == 64
    assert sliced.config.intermediate_size == 40
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_cut_shares_everything_but_the_ffn():
    dense = tiny_model()
    own = dict(dense.named_parameters())
    for name, parameter in sliced_copy(dense, _mask()).named_parameters():
        shared = parameter.data_ptr() == own[name].data_ptr()
        assert shared == ("mlp" not in name), name


def test_cut_folds_scales_in():
    dense, mask = tiny_model(), _mask()
    scales = torch.rand(3, 64) + 0.5
    with torch.no_grad():
        sliced = sliced_copy(dense, mask, scales=scales)
        with masked(dense, mask * scales):
            assert torch.allclose(sliced(IDS).logits, dense(IDS).logits, atol=1e-4)


def test_checkpoint_bytes_counts_the_weights_that_are_used(tmp_path: Path):
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    single = (tmp_path / "model.safetensors").stat().st_size
    save_file({"a": torch.zeros(999)}, tmp_path / "consolidated.safetensors")
    assert checkpoint_bytes(tmp_path) == single
    parts = ["model-1.safetensors", "model-2.safetensors"]
    for part in parts:
        save_file({part: torch.zeros(10)}, tmp_path / part)
    index = {"weight_map": {"x": parts[0], "y": parts[1], "z": parts[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint_bytes(tmp_path) == sum((tmp_path / p).stat().st_size for p in parts)


def test_baseline_keeps_the_strongest_channels_and_recovers_the_cut_model():
    dense = tiny_model()
    rms = torch.rand(3, 64, generator=torch.Generator().manual_seed(5))
    seen = []

    def recover(model: torch.nn.Module, mask: torch.Tensor) -> torch.nn.Module:
        seen.append((model, mask))
        with torch.no_grad():
            ffn_layers(model)[0].down.weight.mul_(0.5)
        return model

    plain = make_baseline(dense, rms, 16, None)
    recovered = make_baseline(dense, rms, 16, recover)
    assert plain.mask.sum(dim=1).tolist() == [16] * 3
    for layer in range(3):
        assert rms[layer][plain.mask[layer]].min() >= rms[layer][~plain.mask[layer]].max()
    assert ffn_layers(plain.model)[0].width == 16
    assert seen[0][0] is recovered.model
    assert torch.equal(seen[0][1], plain.mask)
    halved = ffn_layers(plain.model)[0].down.weight * 0.5
    assert torch.equal(ffn_layers(recovered.model)[0].down.weight, halved)
