"""mask: choose which FFN channels the persona needs.

Writes `mask.safetensors` (packed bits and learned factors, the source of truth for the persona's
model), `scores.safetensors` with `z` `[n_layers, d_ff]`, and `curve.jsonl`.
"""

import time
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..api.training import OptimalBrainSurgeon as SurgeonSettings
from ..api.training import StraightThrough
from ..dataset import Example, read_jsonl, write_jsonl
from ..errors import InputError
from ..mask_learning.activation_rms import activation_rms
from ..mask_learning.initial_scores import random_scores, scores_from_rank
from ..mask_learning.learn import SCORES, MaskProblem, learn, mask_trainer
from ..mask_learning.optimal_brain_surgeon import OptimalBrainSurgeon
from ..models import mask_file
from ..models.families import ffn_layers
from ..models.kept_channels import KeptChannels, kept_channels
from ..models.topk import top_k_mask
from ..pipeline.context import StageContext, StageOutcome
from ..training.distillation import (
    MAX_TRAIN_EXAMPLES,
    MAX_VALIDATION_EXAMPLES,
    DistillationDataset,
    train_limit,
)
from ..training.passes import with_dense_hidden_states
from ..training.tokens import TokenizedSet, tokenize
from ..training.trainer import TrainingConfig
from .common import environment, load_base
from .control import StageControl
from .mask_run import MaskRun, TrainingControl
from .recovery_settings import closed_form_data


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    spec = context.spec
    learning = spec.pruning.straight_through
    started = time.monotonic()
    model, tokenizer, compute = load_base(context)
    data = DistillationDataset(
        train=_tokenized(context, tokenizer, "train.jsonl", _train_limit(learning)),
        validation=_tokenized(context, tokenizer, "validation.jsonl", MAX_VALIDATION_EXAMPLES),
    )
    kept = _kept_channels(context, model)
    mask_run = MaskRun(
        surgeon=_surgeon(context, model, kept.count),
        trainer=mask_trainer(
            _no_scores(model).to(compute.device),
            _training_config(learning, spec.seed),
            with_scales=learning is not None and learning.scales,
        ),
    )
    control = StageControl(context)
    control.resume(mask_run)
    initial = mask_run.initial
    if initial is None:
        initial = _initial_scores(context, model, tokenizer, data.train, mask_run, control)
        mask_run.begin_training(initial)
    ranked = time.monotonic()
    trainer = mask_run.trainer
    objective = learning.objective if learning is not None else "KL"
    if objective != "CrossEntropy":
        data = _with_dense_hidden_states(context, model, data, learns=learning is not None)
    prepared = time.monotonic()
    context.progress.begin("mask steps", trainer.config.steps)
    context.progress.advance(trainer.step)
    problem = MaskProblem(model, data, kept.count, objective)
    learned = learn(problem, trainer, TrainingControl(control, mask_run))
    bits = top_k_mask(learned.scores, kept.count).cpu()
    scales = None if learned.scales is None else learned.scales.cpu().where(bits, 1.0)
    mask_file.save(
        context.output / "mask.safetensors",
        mask_file.Mask(bits, spec.base_model.uri, spec.base_model.revision, scales),
    )
    save_file({SCORES: learned.scores.cpu().contiguous()}, context.output / "scores.safetensors")
    write_jsonl(context.output / "curve.jsonl", trainer.curve)
    return StageOutcome(
        results={
            "width": kept.count,
            "denseWidth": bits.shape[1],
            "alignment": kept.alignment_used,
            "alignmentLowered": kept.lowered,
            "steps": trainer.step,
            "bestStep": trainer.best_step,
            "validationLossStart": trainer.curve[0].validation_loss,
            "validationLoss": trainer.best_loss,
            "channelsChanged": int((bits & ~top_k_mask(initial, kept.count)).sum()),
            "trainExamples": len(data.train),
            "leftOutTooLong": data.train.too_long + data.validation.too_long,
        },
        timings={
            "rank": ranked - started,
            "prepare": prepared - ranked,
            "learn": time.monotonic() - prepared,
        },
        environment=environment(compute),
    )


def _kept_channels(context: StageContext, model: Any) -> KeptChannels:
    pruning = context.spec.pruning
    intermediate_size = ffn_layers(model)[0].intermediate_size
    kept = kept_channels(intermediate_size, pruning.sparsity_percent, pruning.alignment)
    if kept.lowered:
        context.progress.note(
            f"alignment {pruning.alignment} was lowered to {kept.alignment_used}: "
            f"the model's FFN has only {intermediate_size} channels"
        )
    return kept


def _training_config(learning: StraightThrough | None, seed: int) -> TrainingConfig:
    """Return the settings of the mask learning: no step at all without one."""
    settings = learning or StraightThrough()
    return TrainingConfig(
        steps=settings.steps if learning else 0,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        learning_rate=float(settings.learning_rate),
        beta2=float(settings.beta2),
        evaluate_every=settings.evaluate_every,
        patience=settings.patience,
        seed=seed,
    )


def _train_limit(learning: StraightThrough | None) -> int:
    if learning is None:
        return MAX_TRAIN_EXAMPLES
    return train_limit(learning.steps, learning.batch_size)


def _tokenized(context: StageContext, tokenizer: Any, name: str, limit: int) -> TokenizedSet:
    """Return the first examples of a split, whose order is random already."""
    examples = read_jsonl(context.input_file("rewrite", name), Example)[:limit]
    data = tokenize(tokenizer, examples, max_tokens=context.spec.dataset.max_tokens)
    if not len(data):
        raise InputError(
            f"all {len(examples)} examples of {name} have more than "
            f"{context.spec.dataset.max_tokens} tokens",
            hint="Raise spec.dataset.maxTokens or shorten the persona",
            subject="spec.dataset.maxTokens",
        )
    return data


def _with_dense_hidden_states(
    context: StageContext, model: Any, data: DistillationDataset, *, learns: bool
) -> DistillationDataset:
    """Return the data with the dense model's side; that of the train split only for learning."""
    context.progress.begin("dense reference", len(data) if learns else len(data.validation))
    if learns:
        return data.with_dense_hidden_states(model, on_rows=context.advance)
    return DistillationDataset(
        data.train, with_dense_hidden_states(model, data.validation, on_rows=context.advance)
    )


def _no_scores(model: Any) -> Tensor:
    layers = ffn_layers(model)
    return random_scores((len(layers), layers[0].intermediate_size), seed=0).zero_()


def _surgeon(context: StageContext, model: Any, kept: int) -> OptimalBrainSurgeon | None:
    """Return a run of optimal brain surgeon where the settings need one."""
    pruning = context.spec.pruning
    settings, learning = pruning.optimal_brain_surgeon, pruning.straight_through
    if learning is not None and learning.initialization == "OptimalBrainSurgeon":
        settings = SurgeonSettings()
    if settings is None:
        return None
    return OptimalBrainSurgeon(model, kept_channels=kept, ridge=float(settings.ridge))


def _initial_scores(
    context: StageContext,
    model: Any,
    tokenizer: Any,
    train: TokenizedSet,
    mask_run: MaskRun,
    control: StageControl,
) -> Tensor:
    """Return the scores `[n_layers, d_ff]` that learning starts from; other methods end there."""
    learning, surgeon = context.spec.pruning.straight_through, mask_run.surgeon
    if surgeon is not None:
        context.progress.begin("ranked layers", len(surgeon.importance))
        context.progress.advance(surgeon.layers_done)
        sets = closed_form_data(context, tokenizer).train_sets()
        return scores_from_rank(surgeon.run(sets, scratch=context.scratch, control=control))
    if learning is not None and learning.initialization == "Random":
        layers = ffn_layers(model)
        return random_scores((len(layers), layers[0].intermediate_size), context.spec.seed)
    return scores_from_rank(activation_rms(model, train))
