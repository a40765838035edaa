"""Loading a base model and its tokenizer from a local directory, without running its code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import CorruptArtifactError, InputError, missing_package
from . import families
from .architectures import FAMILIES
from .compute import Compute
from .placement import device_map, free_memory


def load(directory: Path, compute: Compute) -> tuple[Any, Any]:
    """Load the model, frozen and in evaluation mode, and its tokenizer.

    Args:
        directory: a plain Hugging Face checkpoint: config.json, safetensors weights, tokenizer.
        compute: device and number format.

    Returns:
        The model and the tokenizer.

    Raises:
        InputError: the directory has no model, or its architecture can't be pruned.
        CorruptArtifactError: weights or tokenizer are damaged or incomplete.
    """
    return load_model(directory, compute), load_tokenizer(directory)


def load_config(directory: Path) -> Any:
    """Load the model's configuration and check its family; reads no weights."""
    if not (directory / "config.json").is_file():
        raise InputError(
            f"{directory} has no config.json",
            hint="Use a directory with a Hugging Face checkpoint",
            subject="spec.baseModel",
        )
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{directory / 'config.json'} can't be read as a model configuration: {error}",
            hint="Use a model of type " + ", ".join(sorted(FAMILIES)),
            subject="spec.baseModel",
        ) from error
    families.check(config)
    return config


def empty_model(config: Any) -> Any:
    """Return the model of a configuration on torch's meta device: shapes without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def load_model(directory: Path, compute: Compute) -> Any:
    """Load the causal language model, frozen, in evaluation mode, on the device.

    On CUDA it is spread over all GPUs if it does not fit the first one (`placement.device_map`).
    """
    config = load_config(directory)
    family = families.check(config)
    spread = None
    if compute.device.type == "cuda":
        spread = device_map(empty_model(config), compute.dtype, free_memory())
    try:
        with without_progress_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=compute.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation=family.attention,
                device_map=spread,
                output_loading_info=True,
            )
    except ImportError as error:
        raise missing_package(error) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CorruptArtifactError(
            f"the weights in {directory} can't be loaded: {error}",
            hint="Download or convert the base model again; only safetensors weights are read",
            subject="spec.baseModel",
        ) from error
    _check_complete(directory, info)
    model.eval()
    model.requires_grad_(False)
    return model if spread is not None else model.to(compute.device)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the library's progress bars off the terminal; the stages show their own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def load_tokenizer(directory: Path) -> Any:
    """Load the tokenizer of a checkpoint."""
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:
        raise missing_package(error) from error
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CorruptArtifactError(
            f"the tokenizer in {directory} can't be loaded: {error}",
            hint="Put tokenizer.json and tokenizer_config.json into the directory",
            subject="spec.baseModel",
        ) from error


def _check_complete(directory: Path, info: dict[str, Any]) -> None:
    # The library would fill missing weights with random numbers and only warn.
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if found := info.get(problem):
            names = ", ".join(sorted(str(name) for name in found)[:3])
            raise CorruptArtifactError(
                f"the weights in {directory} don't fit its config.json: "
                f"{problem.replace('_', ' ')} {names} ({len(found)} in all)",
                hint="Download or convert the base model again",
                subject="spec.baseModel",
            )


def parameter_count(model: nn.Module) -> int:
    """Count the parameters, tied weights once."""
    return sum(parameter.numel() for parameter in model.parameters())
