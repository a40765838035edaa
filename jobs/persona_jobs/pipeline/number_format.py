"""The number format of a pipeline: chosen before planning, so that content keys contain it."""

from collections.abc import Callable

from ..api import PersonaModelSpec


def with_number_format(spec: PersonaModelSpec, has_cuda: Callable[[], bool]) -> PersonaModelSpec:
    """Return the spec with `Auto` replaced: bfloat16 on CUDA, float32 on every processor.

    Processors differ in which formats they multiply fast. The choice doesn't follow them, because
    two machines would then reach different results under one key.

    Args:
        spec: the resolved spec.
        has_cuda: whether the stages get a GPU; asked only where spec.compute leaves it open.
    """
    compute = spec.compute
    if compute.dtype != "Auto":
        return spec
    cuda = compute.device == "CUDA" or (compute.device == "Auto" and has_cuda())
    chosen = compute.model_copy(update={"dtype": "BFloat16" if cuda else "Float32"})
    return spec.model_copy(update={"compute": chosen})
