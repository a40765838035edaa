import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from persona_jobs.errors import CorruptArtifactError, InputError
from persona_jobs.models import mask_file
from persona_jobs.models.mask_file import Mask
from persona_jobs.models.topk import top_k_mask
from support.tiny import tiny_model


def make(n_layers=3, d_ff=64, k=40, seed=0, **extra):
    scores = torch.randn(n_layers, d_ff, generator=torch.Generator().manual_seed(seed))
    return Mask(top_k_mask(scores, k), "hf://org/model", "abc", **extra)


@settings(max_examples=40, deadline=None)
@given(n_layers=st.integers(1, 5), d_ff=st.integers(1, 70), seed=st.integers(0, 99), data=st.data())
def test_a_saved_mask_equals_the_one_in_memory(tmp_path_factory, n_layers, d_ff, seed, data):
    mask = make(n_layers, d_ff, data.draw(st.integers(1, d_ff)), seed)
    path = tmp_path_factory.mktemp("mask") / "mask.safetensors"
    mask_file.save(path, mask)
    loaded = mask_file.load(path)
    assert torch.equal(loaded.bits, mask.bits)
    assert (loaded.n_layers, loaded.intermediate_size, loaded.kept_channels) == (
        n_layers,
        d_ff,
        mask.kept_channels,
    )


def test_scales_revision_and_metadata_are_read_back(tmp_path):
    path = tmp_path / "mask.safetensors"
    mask = make(scales=torch.rand(3, 64), metadata={"persona": "é 你", "seed": "7"})
    mask_file.save(path, mask)
    loaded = mask_file.load(path)
    assert torch.equal(loaded.scales, mask.scales)
    assert (loaded.base_model, loaded.base_revision) == ("hf://org/model", "abc")
    assert loaded.metadata == {"persona": "é 你", "seed": "7"}
    mask_file.save(path, Mask(mask.bits, "file:///m"))
    assert mask_file.load(path).base_revision is None


def test_a_bit_per_channel_lowest_bit_first(tmp_path):
    """Channel i is bit i % 8 of byte i // 8, lowest first."""
    bits = torch.zeros(1, 12, dtype=torch.bool)
    bits[0, [0, 3, 8, 11]] = True
    assert mask_file.pack(bits).tolist() == [[0b1001, 0b1001]]
    path = tmp_path / "mask.safetensors"
    mask_file.save(path, make(28, 8192, 6144))
    assert 28 * 1024 <= path.stat().st_size < 28 * 1024 + 600


@pytest.mark.parametrize(
    "mask",
    [
        Mask(torch.ones(2, 8), "m"),
        Mask(torch.ones(8, dtype=torch.bool), "m"),
        Mask(torch.zeros(2, 8, dtype=torch.bool), "m"),
        Mask(torch.eye(3, dtype=torch.bool).cumsum(0).bool(), "m"),
        Mask(torch.ones(2, 8, dtype=torch.bool), "m", scales=torch.ones(2, 7)),
        Mask(torch.ones(2, 8, dtype=torch.bool), "m", scales=torch.full((2, 8), float("nan"))),
        Mask(torch.ones(2, 8, dtype=torch.bool), "m", metadata={"d_ff": "9"}),
    ],
)
def test_a_bad_mask_is_not_saved(tmp_path, mask):
    with pytest.raises(InputError):
        mask_file.save(tmp_path / "mask.safetensors", mask)
    assert list(tmp_path.iterdir()) == []


def good(tmp_path):
    path = tmp_path / "mask.safetensors"
    mask_file.save(path, make())
    return path


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_corrupt(tmp_path, keep):
    path = good(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptArtifactError, match=r"mask\.safetensors"):
        mask_file.load(path)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        mask_file.load(tmp_path / "mask.safetensors")


def test_a_directory_or_a_text_file_is_refused(tmp_path):
    with pytest.raises(InputError):
        mask_file.load(tmp_path)
    (tmp_path / "a").write_text("not a mask" * 100)
    with pytest.raises(CorruptArtifactError):
        mask_file.load(tmp_path / "a")


def rewrite(path, metadata=(), tensors=None):
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    merged = {**header["__metadata__"], **dict(metadata)}
    packed = mask_file.pack(make().bits)
    save_file(
        {"mask": packed} if tensors is None else tensors,
        path,
        {name: value for name, value in merged.items() if value is not None},
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "other"},
        {"n_layers": "4"},
        {"d_ff": "72"},
        {"d_ff": "63"},
        {"d_ff": "many"},
        {"n_layers": "-3"},
        {"width": "39"},
        {"width": None},
        {"base_model": None},
    ],
)
def test_metadata_that_does_not_fit_is_corrupt(tmp_path, metadata):
    path = good(tmp_path)
    rewrite(path, metadata)
    with pytest.raises(CorruptArtifactError, match="mask file"):
        mask_file.load(path)


def test_a_newer_format_is_an_input_error(tmp_path):
    path = good(tmp_path)
    rewrite(path, {"format_version": "2"})
    with pytest.raises(InputError, match="version 2") as caught:
        mask_file.load(path)
    assert not isinstance(caught.value, CorruptArtifactError)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"mask": torch.zeros(3, 8)},
        {"mask": torch.zeros(3, 8, dtype=torch.uint8)},
        {"mask": torch.tensor([[255] * 8] * 2 + [[1] * 8], dtype=torch.uint8)},
        {"mask": mask_file.pack(make().bits), "scales": torch.ones(3, 63)},
    ],
)
def test_tensors_that_do_not_fit_are_corrupt(tmp_path, tensors):
    path = good(tmp_path)
    rewrite(path, tensors=tensors)
    with pytest.raises(CorruptArtifactError):
        mask_file.load(path)


def test_a_flipped_bit_is_detected(tmp_path):
    path = good(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptArtifactError, match=r"between (39 and 40|40 and 41)"):
        mask_file.load(path)


def test_a_mask_fits_models_of_its_shape_only():
    mask = make()
    mask_file.check_fits(mask, tiny_model())
    with pytest.raises(InputError, match="3 layers of 64"):
        mask_file.check_fits(mask, tiny_model(layers=4))


def test_equal_masks_are_equal_files(tmp_path):
    files = []
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        mask_file.save(path, make(metadata={f"fact-{n}": str(n) for n in range(6)}))
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    assert torch.equal(mask_file.load(path).bits, make().bits)


def test_a_mask_of_another_base_model_or_revision_is_refused():
    mask = mask_file.Mask(torch.ones(1, 8, dtype=torch.bool), "hf://org/model", "a")
    mask_file.check_base(mask, "hf://org/model", "a")
    for uri, revision in (
        ("hf://org/model", "b"),
        ("hf://org/other", "a"),
        ("hf://org/model", None),
    ):
        with pytest.raises(InputError, match="The mask was learned on hf://org/model a"):
            mask_file.check_base(mask, uri, revision)
