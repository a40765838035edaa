"""slice: prune the model's channels and write a plain Hugging Face checkpoint.

The base model's weights are sliced in their stored number format, so what is kept is byte for byte
the base model's, except the recovered `down_proj` columns. The persona's text becomes the chat
template's default system message.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..errors import CorruptArtifactError
from ..models.checkpoint import save_checkpoint
from ..models.checkpoint_size import checkpoint_bytes
from ..models.compute import Compute
from ..models.families import ffn_layers
from ..models.loading import load, parameter_count
from ..models.slicing import slice_model
from ..pipeline.context import StageContext, StageOutcome
from .common import base_directory, load_mask, stored_dtype


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    directory = base_directory(context)
    compute = Compute(torch.device("cpu"), stored_dtype(directory), "as stored")
    context.progress.begin("parts", 3)
    model, tokenizer = load(directory, compute)
    dense_parameters = parameter_count(model)
    context.progress.advance()
    mask = load_mask(context, model)
    slice_model(model, mask.bits, scales=mask.scales)
    if "recover" in context.planned.inputs:
        put_recovered(model, context.input_file("recover", "recovered.safetensors"))
    context.advance()
    save_checkpoint(model, tokenizer, context.output, system_prompt=context.persona_text)
    context.progress.advance()
    dense_bytes = checkpoint_bytes(directory)
    kept_bytes = checkpoint_bytes(context.output)
    parameters = parameter_count(model)
    return StageOutcome(
        metrics={
            "width": mask.kept_channels,
            "parameters": parameters,
            "denseParameters": dense_parameters,
            "checkpointBytes": kept_bytes,
            "denseCheckpointBytes": dense_bytes,
            "parametersRemovedPercent": round(100 * (1 - parameters / dense_parameters), 2),
        },
        environment={"device": "cpu", "dtype": compute.dtype_name},
    )


def put_recovered(model: Any, path: Path) -> None:
    """Put the recover stage's weights into the sliced model.

    Raises:
        CorruptArtifactError: they don't fit the model.
    """
    weights = load_file(path)
    for layer in ffn_layers(model):
        weight = weights.get(f"layers.{layer.index}.down.weight")
        if weight is None or weight.shape != layer.down.weight.shape:
            raise CorruptArtifactError(
                f"{path} doesn't fit layer {layer.index} of the model",
                hint="Delete the recover stage's folder in the store and run again",
                subject=str(path),
            )
        with torch.no_grad():
            layer.down.weight.copy_(weight)
