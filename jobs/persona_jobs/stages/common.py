"""What several stages do: find the base model, load it on the chosen device."""

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from ..models.compute import Compute, resolve
from ..models.loading import load
from ..pipeline.context import StageContext
from ..sources import base_model


def base_directory(context: StageContext) -> Path:
    """Local directory of the base model, fetched or converted on first use."""
    source = context.spec.base_model
    return base_model.resolve(
        source.uri,
        hub_revision(source.uri, source.revision),
        cache_dir=context.cache,
        token=context.hf_token,
    )


def hub_revision(uri: str, revision: str | None) -> str | None:
    """The revision to ask the hub for; for other sources it is a label of the content only."""
    return revision if uri.startswith("hf://") else None


def chosen_compute(context: StageContext) -> Compute:
    """Device and number format by the spec and the hardware."""
    return resolve(context.spec.compute.device, context.spec.compute.dtype)


def load_base(context: StageContext) -> tuple[Any, Any, Compute]:
    """The frozen base model, its tokenizer, and where it runs."""
    compute = chosen_compute(context)
    model, tokenizer = load(base_directory(context), compute)
    return model, tokenizer, compute


def environment(compute: Compute) -> dict[str, JsonValue]:
    """What the manifest records of the machine."""
    return {
        "device": str(compute.device),
        "dtype": compute.dtype_name,
        "dtypeReason": compute.reason,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }
