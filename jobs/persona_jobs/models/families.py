"""Where a loaded model keeps its gated feed-forward networks (FFN), blocks and head.

A gated FFN computes `down(act(gate(x)) * up(x))`. Its intermediate channels, `d_ff` of them, are
what is pruned: row i of `gate` and `up` and column i of `down` belong to channel i alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .architectures import FAMILIES, Family, refusal


@dataclass(frozen=True)
class FfnLayer:
    """The FFN of one decoder block.

    Attributes:
        index: position of the block, from 0.
        mlp: the module that holds the projections.
        expanding: linear layers whose output rows are channels: `gate` and `up`, each
            `hidden -> d_ff`, or one `hidden -> 2 d_ff` with gate's rows before up's.
        down: `d_ff -> hidden`.
    """

    index: int
    mlp: nn.Module
    expanding: tuple[nn.Linear, ...]
    down: nn.Linear

    @property
    def intermediate_size(self) -> int:
        """Number of intermediate channels, `d_ff`."""
        return self.down.in_features

    def rows_of(self, projection: nn.Linear, channels: Tensor) -> Tensor:
        """Return the output rows of one of `expanding` that belong to `channels` `[n]`."""
        size = self.intermediate_size
        parts = range(projection.out_features // size)
        return torch.cat([channels + part * size for part in parts])


def check(config: Any) -> Family:
    """Return the family of a model configuration; needs no weights.

    Args:
        config: a `transformers` configuration, or anything with `model_type`.

    Raises:
        InputError: the model has no gated FFN that can be pruned here.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else getattr(config, "__dict__", {})
    refused = refusal(values)
    if refused is not None:
        raise InputError(
            f"the base model is {refused.what}, which can't be pruned",
            hint=refused.hint,
            subject="spec.baseModel",
        )
    return FAMILIES[config.model_type]


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


def ffn_norm(model: nn.Module, block: nn.Module) -> nn.Module | None:
    """Return the norm between a block's FFN and the residual stream, or None without one.

    Args:
        model: the model whose architecture the block has.
        block: one of its blocks, or a copy of one.
    """
    name = check(getattr(model, "config", None)).ffn_norm
    return None if name is None else _get(block, name)


def position_embeddings(
    model: nn.Module, layer: int, hidden_states: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the rotary embedding (cosines and sines) that block `layer` takes.

    Args:
        model: a causal language model of a supported family.
        layer: index of the block.
        hidden_states: its input, for type and device.
        positions: `[batch, seq]`.
    """
    stack: Any = decoder(model)
    if check(stack.config).rotary_by_layer_type:
        layer_type = stack.config.layer_types[layer]
        embedded = stack.rotary_emb(hidden_states, positions, layer_type)
    else:
        embedded = stack.rotary_emb(hidden_states, positions)
    cosines, sines = embedded
    return cosines.to(hidden_states.device), sines.to(hidden_states.device)


def position_limit(config: Any) -> int | None:
    """Return the longest sequence, in tokens, whose rotary embedding does not depend on its length.

    LongRoPE (arXiv 2402.13753) and dynamic NTK scaling turn the positions of all tokens otherwise
    as soon as a sequence is longer; keys of a shared prefix would then be those of no sequence.
    None: there is no such limit.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    limits = []
    for rope in nested or [parameters]:
        kind = str(rope.get("rope_type", ""))
        if kind == "longrope":
            limits.append(int(rope["original_max_position_embeddings"]))
        elif "dynamic" in kind:
            limits.append(int(config.max_position_embeddings))
    return min(limits, default=None)


def head(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from final hidden states `[..., d]` to logits `[..., vocabulary]`.

    It is the language-model head with the soft cap on logits where the family has one (Gemma 2,
    arXiv 2408.00118). The logits are on the hidden states' device, wherever the head is.
    """
    embeddings = model.get_output_embeddings()
    cap = getattr(model.config, "final_logit_softcapping", None)

    def logits(hidden_states: Tensor) -> Tensor:
        values: Tensor = embeddings(hidden_states.to(embeddings.weight.device))
        if cap is not None:
            values = torch.tanh(values / cap) * cap
        return values.to(hidden_states.device)

    return logits


def _ffn_layer(family: Family, index: int, block: nn.Module) -> FfnLayer:
    mlp = _get(block, family.mlp)
    expanding = tuple(_linear(mlp, name, index) for name in family.expanding)
    down = _linear(mlp, family.down, index)
    if sum(projection.out_features for projection in expanding) != 2 * down.in_features:
        raise InputError(
            f"block {index} has no gated FFN: {' and '.join(family.expanding)} have "
            f"{sum(projection.out_features for projection in expanding)} outputs, "
            f"{family.down} has {down.in_features} inputs",
            hint="Use the base model's original checkpoint",
            subject="spec.baseModel",
        )
    return FfnLayer(index, mlp, expanding, down)


def _linear(mlp: nn.Module, name: str, index: int) -> nn.Linear:
    projection = _get(mlp, name)
    if type(projection) is not nn.Linear:
        raise InputError(
            f"block {index}: {name} is a {type(projection).__name__}, not a plain linear layer",
            hint="Use an unquantized base model without adapters",
            subject="spec.baseModel",
        )
    return projection


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
