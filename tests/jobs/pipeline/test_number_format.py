"""The number format is chosen before planning, so that it is part of the content keys."""

import pytest

from persona_jobs.api import PersonaModelSpec
from persona_jobs.pipeline.graph import keys
from persona_jobs.pipeline.number_format import with_number_format


def spec(**compute):
    return PersonaModelSpec.model_validate(
        {
            "persona": {"text": "You are a captain."},
            "baseModel": {"uri": "hf://org/model", "revision": "abc"},
            "compute": compute,
        }
    )


@pytest.mark.parametrize(
    ("device", "dtype", "has_cuda", "chosen"),
    [
        ("Auto", "Auto", True, "BFloat16"),
        ("Auto", "Auto", False, "Float32"),
        ("CPU", "Auto", True, "Float32"),
        ("CUDA", "Auto", False, "BFloat16"),
        ("Auto", "Float32", True, "Float32"),
        ("CPU", "BFloat16", False, "BFloat16"),
    ],
)
def test_auto_depends_only_on_cuda(device, dtype, has_cuda, chosen):
    given = spec(device=device, dtype=dtype)
    resolved = with_number_format(given, lambda: has_cuda)
    assert resolved.compute.dtype == chosen
    assert resolved.compute.device == device
    assert keys(resolved) == keys(spec(device=device, dtype=chosen))
    assert given.compute.dtype == dtype


def test_the_hardware_is_only_asked_where_the_spec_leaves_it_open():
    def fail():
        raise AssertionError("asked")

    for device, dtype in (("CPU", "Auto"), ("CUDA", "Auto"), ("Auto", "Float32")):
        with_number_format(spec(device=device, dtype=dtype), fail)
