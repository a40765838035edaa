"""Forms in which the finished model is written for other programs."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .common import SpecModel, cel, validations

_TWICE = "names the same format and quantization more than once"


class Export(SpecModel):
    """One form of the finished model."""

    format: Literal["GGUF"]
    """`GGUF`: one file for llama.cpp, Ollama, LM Studio and others, with the persona in its chat
    template."""
    quantization: Literal["F16", "Q8_0", "Q4_0"] = "Q8_0"
    """Number format of the matrices: 16, 8 or 4 bits a weight. The vocabulary's keep 8 bits in a
    `Q4_0` file."""


def _each_once(exports: list[Export]) -> list[Export]:
    if len(set(exports)) < len(exports):
        raise ValueError(_TWICE)
    return exports


_QUANTIZATION = "(has({0}.quantization) ? {0}.quantization : 'Q8_0')"
Exports = Annotated[
    list[Export],
    AfterValidator(_each_once),
    Field(
        max_length=3,
        json_schema_extra={
            "x-kubernetes-list-type": "atomic",
            **validations(
                cel(
                    f"self.all(x, self.exists_one(y, {_QUANTIZATION.format('x')} == "
                    f"{_QUANTIZATION.format('y')}))",
                    _TWICE,
                )
            ),
        },
    ),
]
