"""mask: learn which FFN channels the persona needs, with all weights frozen.

Writes `mask.safetensors` (packed bits, the source of truth for the persona's model),
`scores.safetensors` with `z` `[n_layers, d_ff]`, and `curve.jsonl`.
"""

import time
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..api.training import StraightThrough
from ..dataset import Example, read_jsonl, write_jsonl
from ..errors import InputError
from ..mask_learning.activation_rms import activation_rms
from ..mask_learning.initial_scores import random_scores, scores_from_rank
from ..mask_learning.learn import MaskProblem, learn, mask_trainer
from ..models import mask_file
from ..models.families import ffn_layers
from ..models.kept_channels import kept_channels
from ..models.topk import top_k_mask
from ..pipeline.context import StageContext, StageOutcome
from ..training.distillation import DistillationDataset
from ..training.tokens import TokenizedSet, tokenize
from ..training.trainer import TrainingConfig
from .common import environment, load_base
from .control import StageControl


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    spec = context.spec
    pruning, learning = spec.pruning, spec.pruning.learning
    objective = learning.objective if learning else "KL"
    started = time.monotonic()
    model, tokenizer, compute = load_base(context)
    data = DistillationDataset(
        train=_tokenized(context, tokenizer, "train.jsonl"),
        validation=_tokenized(context, tokenizer, "validation.jsonl"),
    )
    intermediate_size = ffn_layers(model)[0].intermediate_size
    kept = kept_channels(intermediate_size, pruning.sparsity_percent, pruning.alignment)
    if kept.lowered:
        context.progress.note(
            f"alignment {pruning.alignment} was lowered to {kept.alignment_used}: "
            f"the model's FFN has only {intermediate_size} channels"
        )
    if objective != "CrossEntropy":
        context.progress.begin("dense reference", len(data))
        data = data.with_dense_hidden_states(model, on_rows=context.progress.advance)
    scores = _initial_scores(context, model, data.train)
    initial = top_k_mask(scores, kept.count)
    config = _training_config(learning, spec.seed)
    trainer = mask_trainer(scores.to(compute.device), config)
    control = StageControl(context)
    control.resume(trainer)
    prepared = time.monotonic()
    context.progress.begin("mask steps", config.steps)
    context.progress.advance(trainer.step)
    problem = MaskProblem(model, data, kept.count, objective)
    best = learn(problem, trainer, control)
    bits = top_k_mask(best, kept.count).cpu()
    mask_file.save(
        context.output / "mask.safetensors",
        mask_file.Mask(bits, spec.base_model.uri, spec.base_model.revision),
    )
    save_file({"z": best.cpu().contiguous()}, context.output / "scores.safetensors")
    write_jsonl(context.output / "curve.jsonl", trainer.curve)
    return StageOutcome(
        metrics={
            "width": kept.count,
            "denseWidth": intermediate_size,
            "alignment": kept.alignment_used,
            "alignmentLowered": kept.lowered,
            "steps": trainer.step,
            "bestStep": trainer.best_step,
            "validationLossStart": trainer.curve[0].validation_loss,
            "validationLoss": trainer.best_loss,
            "channelsChanged": int((bits & ~initial).sum()),
            "trainExamples": len(data.train),
            "leftOutTooLong": data.train.too_long + data.validation.too_long,
        },
        timings={"prepare": prepared - started, "learn": time.monotonic() - prepared},
        environment=environment(compute),
    )


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


def _tokenized(context: StageContext, tokenizer: Any, name: str) -> TokenizedSet:
    examples = read_jsonl(context.input_file("rewrite", name), Example)
    data = tokenize(tokenizer, examples, max_tokens=context.spec.dataset.max_tokens)
    if not len(data):
        raise InputError(
            f"all {len(examples)} examples of {name} have more than "
            f"{context.spec.dataset.max_tokens} tokens",
            hint="Raise spec.dataset.maxTokens or shorten the persona",
            subject="spec.dataset.maxTokens",
        )
    return data


def _initial_scores(context: StageContext, model: Any, train: TokenizedSet) -> Tensor:
    layers = ffn_layers(model)
    learning = context.spec.pruning.learning
    if learning is not None and learning.initialization == "Random":
        return random_scores((len(layers), layers[0].intermediate_size), context.spec.seed)
    return scores_from_rank(activation_rms(model, train))
