"""The weights that the fine-tuning trains: `down_proj`, the FFN, the blocks, or LoRA adapters."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..models.families import blocks, ffn_layers
from .run import Weights, put

WeightChoice = Literal["Down", "FFN", "All", "LoRA"]
_ADAPTER = "default"


class TrainedWeights(Protocol):
    """Weights of a model that are trained; `recovery.run.put` loads them by their names."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters in the model, by name."""

    def initial(self) -> Weights:
        """Return float32 copies to train, on the model's device."""

    def finish(self, values: Weights) -> Weights:
        """Put trained values into the model and return them as float32 weights of the model."""


def trained_weights(
    dense: Any, sliced: Any, weights: Weights, choice: WeightChoice, *, rank: int, seed: int
) -> TrainedWeights:
    """Return the chosen weights of the sliced model, with those that it shares unshared.

    Args:
        dense: the dense model, which stays as it is.
        sliced: the sliced model, which may share weights with it.
        weights: float32 weights, by name, that replace the model's rounded ones.
        choice: `Down`, the whole `FFN`, `All` weights but the vocabulary's embedding and head, or
            `LoRA` adapters of all linear layers in the blocks.
        rank: rank of the adapters.
        seed: decides their random half.
    """
    if choice == "LoRA":
        linear = [
            name
            for block in blocks(sliced)
            for name in _names(sliced, block)
            if isinstance(sliced.get_submodule(name), nn.Linear)
        ]
        _unshare(dense, sliced, [f"{name}.weight" for name in linear])
        return LoraWeights(sliced, linear, weights, rank=rank, seed=seed)
    if choice == "All":
        vocabulary = {sliced.get_input_embeddings().weight, sliced.get_output_embeddings().weight}
        chosen = [name for name, p in sliced.named_parameters() if p not in vocabulary]
    else:
        layers = ffn_layers(sliced)
        wanted = {layer.down.weight for layer in layers}
        if choice == "FFN":
            wanted = {parameter for layer in layers for parameter in layer.mlp.parameters()}
        chosen = [name for name, parameter in sliced.named_parameters() if parameter in wanted]
    _unshare(dense, sliced, chosen)
    return PlainWeights(sliced, chosen, weights)


class PlainWeights:
    """Weights of the model as they are."""

    def __init__(self, model: Any, names: Collection[str], weights: Weights) -> None:
        self.parameters: dict[str, nn.Parameter] = {n: model.get_parameter(n) for n in names}
        self._model, self._weights = model, weights

    def initial(self) -> Weights:
        """Return float32 copies."""
        return {
            name: _float32(self._weights.get(name, parameter), parameter.device)
            for name, parameter in self.parameters.items()
        }

    def finish(self, values: Weights) -> Weights:
        """Put the values into the model."""
        put(self._model, values)
        return dict(values)


class LoraWeights:
    """Low-rank adapters beside linear layers (LoRA, arXiv 2106.09685), made by PEFT.

    They are float32; `finish` adds them to the layers' weights and removes them.
    """

    def __init__(
        self, model: Any, layers: list[str], weights: Weights, *, rank: int, seed: int
    ) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
        self._model, self._layers, self._weights = model, layers, weights
        self.parameters: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                self.parameters[name] = parameter
        self._initial = {name: p.detach().clone() for name, p in self.parameters.items()}

    def initial(self) -> Weights:
        """Return copies of the adapters as they were made: they change nothing yet."""
        return {name: value.clone() for name, value in self._initial.items()}

    def finish(self, values: Weights) -> Weights:
        """Merge the adapters into the weights."""
        put(self._model, values)
        merged = {}
        for name in self._layers:
            adapted = self._model.get_submodule(name)
            base = adapted.get_base_layer()
            weight = _float32(self._weights.get(f"{name}.weight", base.weight), base.weight.device)
            merged[f"{name}.weight"] = weight + adapted.get_delta_weight(_ADAPTER).float()
            parent, _, child = name.rpartition(".")
            setattr(self._model.get_submodule(parent), child, base)
        put(self._model, merged)
        return merged


def _names(model: nn.Module, block: nn.Module) -> list[str]:
    """Return the names of the block's modules in the model."""
    inside = set(block.modules())
    return [name for name, module in model.named_modules() if module in inside]


def _float32(weight: Tensor, device: torch.device) -> Tensor:
    return weight.detach().to(device, torch.float32, copy=True)


def _unshare(dense: nn.Module, sliced: nn.Module, names: Collection[str]) -> None:
    """Give the sliced model its own copies of weights that it shares with the dense one."""
    shared = set(dense.parameters())
    for name in names:
        parameter = sliced.get_parameter(name)
        if parameter in shared:
            parent, _, child = name.rpartition(".")
            own = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(sliced.get_submodule(parent), child, own)
