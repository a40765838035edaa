"""Model families with a gated feed-forward network (FFN), and where their layers are.

A gated FFN computes `down(act(gate(x)) * up(x))`. Its intermediate channels, `d_ff` of them, are
what is pruned: row i of `gate` and `up` and column i of `down` belong to channel i alone.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from ..errors import InputError


@dataclass(frozen=True)
class Family:
    """Attribute paths of one architecture, relative to the causal language model."""

    decoder: str = "model"
    layers: str = "model.layers"
    mlp: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


# By `config.model_type`; each is covered by the exactness tests.
FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
}


@dataclass(frozen=True)
class FfnLayer:
    """The FFN of one decoder block.

    Attributes:
        index: position of the block, from 0.
        mlp: the module that holds the three projections.
        gate: `hidden -> d_ff`.
        up: `hidden -> d_ff`.
        down: `d_ff -> hidden`.
    """

    index: int
    mlp: nn.Module
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear

    @property
    def intermediate_size(self) -> int:
        """Number of intermediate channels, `d_ff`."""
        return self.down.in_features


def check(config: Any) -> Family:
    """Return the family of a model configuration; needs no weights.

    Args:
        config: a `transformers` configuration, or anything with `model_type`.

    Raises:
        InputError: the architecture has no gated FFN that can be pruned here.
    """
    model_type = str(getattr(config, "model_type", "") or "unknown")
    family = FAMILIES.get(model_type)
    if family is None:
        architectures = ", ".join(getattr(config, "architectures", None) or []) or model_type
        raise InputError(
            f"architecture {architectures} (model_type {model_type!r}) can't be pruned",
            hint=f"Use a base model of one of: {', '.join(sorted(FAMILIES))}",
            subject="spec.baseModel",
        )
    return family


def decoder(model: nn.Module) -> nn.Module:
    """Return the decoder stack without the language-model head."""
    return _get(model, check(getattr(model, "config", None)).decoder)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the decoder blocks, first to last.

    Raises:
        InputError: the architecture is not supported.
    """
    layers = _get(model, check(getattr(model, "config", None)).layers)
    return list(layers.children())


def ffn_layers(model: nn.Module) -> list[FfnLayer]:
    """Return the gated FFN of every decoder block, first to last.

    Raises:
        InputError: the architecture is not supported, or a projection is not a plain linear layer
            (a quantized model, for instance).
    """
    family = check(getattr(model, "config", None))
    return [_ffn_layer(family, index, block) for index, block in enumerate(blocks(model))]


def _ffn_layer(family: Family, index: int, block: nn.Module) -> FfnLayer:
    mlp = _get(block, family.mlp)
    projections = [_get(mlp, name) for name in (family.gate, family.up, family.down)]
    for name, projection in zip((family.gate, family.up, family.down), projections, strict=True):
        if type(projection) is not nn.Linear:
            raise InputError(
                f"block {index}: {family.mlp}.{name} is a {type(projection).__name__}, "
                "not a plain linear layer",
                hint="Use an unquantized base model without adapters",
                subject="spec.baseModel",
            )
    gate, up, down = projections
    return FfnLayer(index, mlp, gate, up, down)  # type: ignore[arg-type]


def _get(root: nn.Module, path: str) -> nn.Module:
    try:
        module = attrgetter(path)(root)
    except AttributeError as error:
        raise InputError(
            f"{type(root).__name__} has no {path}",
            hint="Load the base model as a causal language model (AutoModelForCausalLM)",
            subject="spec.baseModel",
        ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(root).__name__}.{path} is not a module")
    return module
