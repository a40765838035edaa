"""The variants of the model, measured one after the other so that few are in memory at once.

The served checkpoint is measured alone and unloaded. Then comes the dense model, and beside it one
pruned copy at a time, which shares all but the FFN's weights with it. What a variant computes on
the held-out conversations is kept as hidden states until the dense model's are there.
"""

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from ...errors import CorruptArtifactError
from ...evaluation.baseline import Baseline, make_baseline
from ...evaluation.losses import AnswerStates, answer_states, held_out_loss, mask_difference
from ...evaluation.speed import Runnable, Speed, measure
from ...mask_learning.activation_rms import activation_rms
from ...models.checkpoint_size import checkpoint_bytes
from ...models.compute import Compute
from ...models.loading import load_model, parameter_count
from ...models.mask_file import Mask
from ...models.masking import masked
from ...models.slicing import sliced_copy
from ...models.stopping import stop_between_blocks
from ...pipeline.context import StageContext
from ...pipeline.graph import recovers
from ...pipeline.results import Variant
from ...recovery.recover import recover
from ...training.tokens import TokenizedSet
from ..common import base_directory, load_mask
from ..control import StageControl, StageProgress
from ..recovery_settings import recovery_config, recovery_data
from .answers import sample_answers
from .parts import PartStore

# Log-probabilities of a masked and a sliced float32 model differ only by rounding.
MASK_TOLERANCE = 0.01
# Names of the series of states that the baseline's recovery and its result are kept in.
RECOVERY_SERIES, BASELINE_SERIES = "recovery", "baseline"
BASELINE_FILE = "baseline.safetensors"
MASK_NAME = "mask"

States = dict[str, AnswerStates]


@dataclass(frozen=True)
class Material:
    """What every variant is measured on.

    Attributes:
        tokenizer: the base model's tokenizer.
        prompts: token ids of the questions under the persona's prompt, the measured ones first.
        sets: held-out conversations, as `persona` and `generic`.
    """

    tokenizer: Any
    prompts: Sequence[list[int]]
    sets: dict[str, TokenizedSet]


@dataclass
class Models:
    """What is left of the models after they are measured.

    Attributes:
        dense: the dense model, which scores the answers.
        mask: the persona's mask.
        baseline_mask: bool `[n_layers, d_ff]` of the baseline, if it is measured.
        served: the variant that the sliced checkpoint holds.
        speeds: of dense, masked and served, by variant.
    """

    dense: Any
    mask: Mask
    baseline_mask: torch.Tensor | None
    served: Literal["sliced", "recovered"]
    speeds: dict[Variant, Speed]


def measure_variants(
    context: StageContext, compute: Compute, material: Material, store: PartStore
) -> Models:
    """Measure answers, losses, sizes and speeds of all variants.

    Raises:
        InputError: the mask doesn't fit the base model.
        CorruptArtifactError: the mask file or the checkpoint is damaged, or they don't belong
            together.
    """
    measuring = _Measuring(context, material, store)
    directory = base_directory(context)
    checkpoint = context.artifacts.local_dir("slice", context.planned.inputs["slice"])
    served: Literal["sliced", "recovered"] = "recovered" if recovers(context.spec) else "sliced"
    served_states = measuring.alone(served, checkpoint, compute)
    dense = _loaded(context, directory, compute)
    mask = load_mask(context, dense)
    mask_bytes = context.input_file("mask", "mask.safetensors").stat().st_size
    size = (parameter_count(dense), checkpoint_bytes(directory))
    store.parts.sizes["dense"] = size
    store.parts.sizes["masked"] = (size[0], size[1] + mask_bytes)
    measuring.with_dense(dense)
    measuring.losses(served, served_states)
    sliced = sliced_copy(dense, mask.bits, scales=mask.scales)
    sliced_states = served_states
    if served == "recovered":
        sliced_states = measuring.beside("sliced", sliced)
    _check_mask(dense, mask, sliced_states, material, store, compute)
    speeds = _speeds(context, dense, mask, served, sliced)
    del sliced, sliced_states, served_states
    _release()
    baseline_mask = _measured_baseline(context, dense, material, measuring, store, mask)
    _release()
    return Models(dense, mask, baseline_mask, served, speeds)


class _Measuring:
    """Measures one variant at a time and remembers what is finished."""

    def __init__(self, context: StageContext, material: Material, store: PartStore) -> None:
        self._context, self._material, self._store = context, material, store
        self._dense: Any = None
        self._dense_states: States = {}

    def has(self, variant: Variant) -> bool:
        """Return whether answers and losses of a variant are measured."""
        return self._answered(variant) and self._has_losses(variant)

    def alone(self, variant: Variant, directory: Path, compute: Compute) -> States:
        """Measure a stored checkpoint, of which only hidden states and head are kept."""
        parts = self._store.parts
        checked = variant != "sliced" or parts.mask_difference is not None
        if self.has(variant) and checked and variant in parts.sizes:
            return {}
        model = _loaded(self._context, directory, compute)
        parts.sizes[variant] = (parameter_count(model), checkpoint_bytes(directory))
        self._answer(variant, model)
        states = self._states(variant, model)
        del model
        _release()
        return states

    def with_dense(self, dense: Any) -> None:
        """Measure the dense model, the reference of all losses."""
        self._dense = dense
        self._answer("dense", dense)
        if not self._has_losses("dense"):
            self.losses("dense", self._reference())

    def beside(self, variant: Variant, model: Any) -> States:
        """Measure a copy of the dense model; all pruned variants have the same size."""
        parts = self._store.parts
        served: Variant = "recovered" if "recovered" in parts.sizes else "sliced"
        parts.sizes[variant] = parts.sizes[served]
        self._answer(variant, model)
        if self._has_losses(variant) and parts.mask_difference is not None:
            return {}
        states = self._states(variant, model)
        self.losses(variant, states)
        return states

    def losses(self, variant: Variant, states: States) -> None:
        """Compute the losses of a variant whose hidden states are known."""
        found = self._losses_by_set()
        for name, of_variant in states.items():
            if variant not in found[name]:
                data = self._material.sets[name]
                reference = self._reference()[name]
                found[name][variant] = held_out_loss(reference, of_variant, data)
        self._store.part_done()

    def _reference(self) -> States:
        """Return the dense model's states, computed when they are first needed."""
        if not self._dense_states:
            self._dense_states = self._states("dense", self._dense)
        return self._dense_states

    def _losses_by_set(self) -> dict[str, dict[Variant, Any]]:
        parts = self._store.parts
        return {"persona": parts.persona_losses, "generic": parts.generic_losses}

    def _has_losses(self, variant: Variant) -> bool:
        found = self._losses_by_set()
        return all(variant in found[name] for name in self._material.sets)

    def _answered(self, variant: Variant) -> bool:
        return len(self._store.parts.answers.get(variant, [])) == len(self._material.prompts)

    def _states(self, variant: Variant, model: Any) -> States:
        context, sets = self._context, self._material.sets
        context.progress.begin(f"{variant}: losses", sum(len(data) for data in sets.values()))
        return {
            name: answer_states(model, data, on_rows=context.advance) for name, data in sets.items()
        }

    def _answer(self, variant: Variant, model: Any) -> None:
        """Sample the answers that are left, every variant with the same random numbers."""
        sample_answers(
            self._context,
            model,
            self._material.tokenizer,
            self._material.prompts,
            self._store.parts.answers.setdefault(variant, []),
            self._store,
            title=f"{variant}: answers",
        )


def _loaded(context: StageContext, directory: Path, compute: Compute) -> Any:
    context.stop.check()
    model = load_model(directory, compute)
    stop_between_blocks(model, context.stop.check)
    return model


def _release() -> None:
    """Give back the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_mask(
    dense: Any,
    mask: Mask,
    sliced: States,
    material: Material,
    store: PartStore,
    compute: Compute,
) -> None:
    """Compare masked and sliced model in log-probabilities.

    Raises:
        CorruptArtifactError: the sliced checkpoint was made with another mask.
    """
    if not sliced or store.parts.mask_difference is not None:
        return
    name = next(iter(material.sets))
    data = material.sets[name]
    bits = mask.bits.float()
    if mask.scales is not None:
        bits = bits * mask.scales
    difference = mask_difference(dense, bits, sliced[name], data, range(min(4, len(data))))
    if compute.dtype == torch.float32 and not difference <= MASK_TOLERANCE:
        raise CorruptArtifactError(
            "The sliced checkpoint does not match the mask: their log-probabilities differ by "
            f"{difference:.3g}",
            hint="Delete the slice stage's folder in the store and run again",
            subject="model.safetensors",
        )
    store.parts.mask_difference = difference


def _speeds(
    context: StageContext, dense: Any, mask: Mask, served: Variant, sliced: Any
) -> dict[Variant, Speed]:
    """Measure dense, masked and one sliced model, whose shapes are those of the served one."""
    runnable: dict[Variant, Runnable] = {
        "dense": Runnable(dense),
        "masked": Runnable(dense, partial(masked, dense, mask.bits)),
        served: Runnable(sliced),
    }
    context.progress.begin("speed", 1)
    speeds = measure(runnable, before_each=context.stop.check)
    context.progress.advance()
    return speeds


def _measured_baseline(
    context: StageContext,
    dense: Any,
    material: Material,
    measuring: _Measuring,
    store: PartStore,
    mask: Mask,
) -> torch.Tensor | None:
    """Measure the baseline unless it is measured already, and return its mask."""
    parts = store.parts
    if parts.baseline_mask is not None and measuring.has("baseline"):
        return torch.tensor([[bit == "1" for bit in layer] for layer in parts.baseline_mask])
    baseline = _baseline(context, dense, material.tokenizer, mask.kept_channels)
    if baseline is None:
        return None
    measuring.beside("baseline", baseline.model)
    parts.baseline_mask = ["".join("01"[bit] for bit in row) for row in baseline.mask.tolist()]
    return baseline.mask


def _baseline(context: StageContext, dense: Any, tokenizer: Any, width: int) -> Baseline | None:
    """Return the activation-RMS baseline with the spec's recovery, or None if switched off."""
    if not context.spec.evaluation.baseline:
        return None
    if (saved := context.load_state(series=BASELINE_SERIES)) is not None:
        tensors = load_file(saved / BASELINE_FILE)
        bits = tensors.pop(MASK_NAME).bool()
        model = sliced_copy(dense, bits)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, recovered in tensors.items():
                parameters[name].copy_(recovered)
        return Baseline(model, bits)
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
            control=StageControl(context, RECOVERY_SERIES),
        )

    baseline = make_baseline(
        dense, rms, width, recover_baseline if recovers(context.spec) else None
    )
    _save_baseline(context, dense, baseline)
    return baseline


def _save_baseline(context: StageContext, dense: Any, baseline: Baseline) -> None:
    """Save the weights that the recovery changed, so that it does not run again."""
    plain = dict(sliced_copy(dense, baseline.mask).named_parameters())
    changed = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in baseline.model.named_parameters()
        if not torch.equal(parameter, plain[name])
    }
    tensors = {**changed, MASK_NAME: baseline.mask.to(torch.uint8)}
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder:
        save_file(tensors, Path(folder) / BASELINE_FILE)
        context.save_state(Path(folder), series=BASELINE_SERIES)
