import pytest

from persona_jobs.errors import OutOfMemoryError, PersonaError, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("x"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised(error, expected):
    assert is_out_of_memory(error) is expected


def test_an_error_names_its_subject_and_its_fix():
    error = PersonaError("Two fields are set", hint="Remove one", subject="spec.persona")
    assert str(error) == "spec.persona: Two fields are set. Remove one"
