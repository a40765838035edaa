"""The models that the evaluate stage compares, from the store."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ...evaluation.baseline import Baseline, make_baseline
from ...mask_learning.activation_rms import activation_rms
from ...models.checkpoint_size import checkpoint_bytes
from ...models.compute import Compute
from ...models.loading import load, load_model, parameter_count
from ...models.mask_file import Mask
from ...models.slicing import sliced_copy
from ...pipeline.context import StageContext
from ...pipeline.graph import recovers
from ...pipeline.results import Variant
from ...recovery.recover import recover
from ...training.trainer import Resumable
from ..common import base_directory, load_mask
from ..control import StageProgress
from ..recovery_settings import recovery_config, recovery_data


@dataclass
class Models:
    """The loaded models, the mask, and the sizes of all variants.

    Attributes:
        running: models by variant, except masked.
        mask: the persona's mask.
        baseline_mask: bool `[n_layers, d_ff]` of the baseline, if it is measured.
        sizes: (parameters, bytes of the stored weights) of all variants.
        served: the variant that the sliced checkpoint holds.
    """

    running: dict[Variant, Any]
    mask: Mask
    baseline_mask: torch.Tensor | None
    sizes: dict[Variant, tuple[int, int]]
    served: Literal["sliced", "recovered"]


def load_models(context: StageContext, compute: Compute) -> tuple[Models, Any]:
    """Return all variants and the base model's tokenizer.

    The sliced model shares the unpruned weights with the dense one. The served checkpoint is the
    recovered variant where recovery is on, otherwise the sliced one.

    Raises:
        InputError: the mask doesn't fit the base model.
        CorruptArtifactError: the mask file or the checkpoint is damaged.
    """
    directory = base_directory(context)
    dense, tokenizer = load(directory, compute)
    mask = load_mask(context, dense)
    checkpoint = context.artifacts.local_dir("slice", context.planned.inputs["slice"])
    stored = load_model(checkpoint, compute)
    running: dict[Variant, Any] = {"dense": dense}
    served: Literal["sliced", "recovered"] = "sliced"
    if recovers(context.spec):
        served = "recovered"
        running["sliced"] = sliced_copy(dense, mask.bits, scales=mask.scales)
    running[served] = stored
    baseline = _baseline(context, dense, tokenizer, mask.kept_channels)
    if baseline is not None:
        running["baseline"] = baseline.model
    dense_bytes = checkpoint_bytes(directory)
    mask_bytes = context.input_file("mask", "mask.safetensors").stat().st_size
    # All sliced variants have the same shapes and therefore the same size.
    sliced_size = (parameter_count(stored), checkpoint_bytes(checkpoint))
    sizes: dict[Variant, tuple[int, int]] = {
        "dense": (parameter_count(dense), dense_bytes),
        "masked": (parameter_count(dense), dense_bytes + mask_bytes),
        **{name: sliced_size for name in running if name != "dense"},
    }
    baseline_mask = None if baseline is None else baseline.mask
    return Models(running, mask, baseline_mask, sizes, served), tokenizer


def _baseline(context: StageContext, dense: Any, tokenizer: Any, width: int) -> Baseline | None:
    """Return the activation-RMS baseline with the spec's recovery, or None if switched off."""
    if not context.spec.evaluation.baseline:
        return None
    data = recovery_data(context, tokenizer)
    context.progress.begin("baseline: activation RMS", 1)
    rms = activation_rms(dense, data.persona.train)
    context.advance()

    def recover_baseline(model: Any) -> None:
        recover(
            dense,
            model,
            data,
            recovery_config(context.spec),
            scratch=context.scratch,
            progress=StageProgress(context, prefix="baseline: "),
            control=_Interruptible(context),
        )

    return make_baseline(dense, rms, width, recover_baseline if recovers(context.spec) else None)


class _Interruptible:
    """Progress and interruption of the baseline's fine-tuning, which saves no state."""

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def resume(self, _: Resumable) -> bool:
        """Start from the beginning."""
        return False

    def step_done(self) -> None:
        """Report one finished step."""
        self._context.progress.advance()

    @property
    def save_due(self) -> bool:
        """Whether a stop was requested."""
        return self._context.stop.requested

    def save_state(self, _: Callable[[Path], None]) -> None:
        """Stop the stage."""
        self._context.stop.check()
