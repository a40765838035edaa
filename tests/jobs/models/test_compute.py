import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models import compute


@pytest.fixture(autouse=True)
def no_caps(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def cpu(monkeypatch, *, flags, machine, probes=None):
    """A processor with these flags; probes: what torch's own questions answer, or None."""
    monkeypatch.setattr(compute, "_cpuinfo_flags", lambda: set(flags))
    monkeypatch.setattr(compute.platform, "machine", lambda: machine)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        if probes is None:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            answer = probes.get(name, False)
            monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)


@pytest.mark.parametrize(
    ("machine", "flags", "probes", "dtype"),
    [
        ("x86_64", [], {"_is_avx512_bf16_supported": True}, torch.bfloat16),
        ("x86_64", [], {"_is_amx_tile_supported": True}, torch.bfloat16),
        ("x86_64", ["avx2", "avx512f"], {}, torch.float32),
        ("x86_64", ["avx512_bf16"], {}, torch.float32),  # torch says no, and it knows better
        ("x86_64", ["avx512_bf16"], None, torch.bfloat16),
        ("x86_64", ["amx_tile"], None, torch.float32),
        ("x86_64", ["amx_tile", "amx_bf16"], None, torch.bfloat16),
        ("aarch64", ["asimd", "bf16"], {}, torch.bfloat16),
        ("aarch64", ["asimd"], {}, torch.float32),
        ("arm64", [], {}, torch.float32),
    ],
)
def test_auto_asks_the_processor(monkeypatch, machine, flags, probes, dtype):
    cpu(monkeypatch, flags=flags, machine=machine, probes=probes)
    chosen = compute.resolve("CPU", "Auto")
    assert chosen.dtype is dtype
    assert chosen.device == torch.device("cpu")
    assert chosen.reason.startswith(chosen.dtype_name)


@pytest.mark.parametrize(
    ("variable", "value", "dtype"),
    [
        ("ATEN_CPU_CAPABILITY", "avx2", torch.float32),
        ("ATEN_CPU_CAPABILITY", "default", torch.float32),
        ("ATEN_CPU_CAPABILITY", "avx512", torch.bfloat16),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", torch.float32),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", torch.float32),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", torch.bfloat16),
    ],
)
def test_a_lowered_instruction_set_is_respected(monkeypatch, variable, value, dtype):
    cpu(monkeypatch, flags=[], machine="x86_64", probes={"_is_avx512_bf16_supported": True})
    monkeypatch.setenv(variable, value)
    assert compute.resolve("CPU", "Auto").dtype is dtype


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


def test_this_machine_is_read_without_error():
    assert compute.resolve().dtype in {torch.float32, torch.bfloat16}
