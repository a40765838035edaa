import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models import compute


def test_auto_is_float32_on_every_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    for variable, value in (("ATEN_CPU_CAPABILITY", "avx512"), ("ONEDNN_MAX_CPU_ISA", "ALL")):
        monkeypatch.setenv(variable, value)
    chosen = compute.resolve("CPU", "Auto")
    assert (chosen.device, chosen.dtype) == (torch.device("cpu"), torch.float32)
    assert chosen.reason.startswith("float32")


def test_auto_is_bfloat16_on_every_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    for device in ("Auto", "CUDA"):
        chosen = compute.resolve(device, "Auto")
        assert (chosen.device, chosen.dtype) == (torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize(
    ("choice", "dtype"), [("Float32", torch.float32), ("BFloat16", torch.bfloat16)]
)
def test_an_explicit_format_wins(choice, dtype):
    assert compute.resolve("CPU", choice).dtype is dtype


def test_cuda_without_a_gpu_names_the_field(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"spec\.compute\.device"):
        compute.resolve("CUDA", "Auto")
    assert compute.resolve("Auto", "Float32").device.type == "cpu"
