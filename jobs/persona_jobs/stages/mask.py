"""mask: learn which FFN channels the persona needs; the weights are frozen.

Writes `mask.safetensors` (packed bits, the source of truth for the persona's model),
`scores.safetensors` with `z` `[n_layers, d_ff]`, and `curve.jsonl`.
"""

import time
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..dataset import Example, read_jsonl, write_jsonl
from ..errors import InputError
from ..mask_learning.activation_rms import activation_rms
from ..mask_learning.initial_scores import random_scores, scores_from_rank
from ..mask_learning.learn import MaskProblem, learn, mask_loop
from ..models import mask_file
from ..models.families import ffn_layers
from ..models.topk import kept_width, top_k_mask
from ..pipeline.context import StageContext, StageOutcome
from ..training.passes import dense_references
from ..training.tokens import TokenizedSet, tokenize
from ..training.trainer import LoopSettings
from .common import environment, load_base
from .control import StageControl, resume


def run(context: StageContext) -> StageOutcome:
    """Make the stage's files."""
    spec = context.spec
    pruning = spec.pruning
    started = time.monotonic()
    model, tokenizer, compute = load_base(context)
    train = _tokenized(context, tokenizer, "train.jsonl")
    validation = _tokenized(context, tokenizer, "validation.jsonl")
    layers = ffn_layers(model)
    width = kept_width(layers[0].width, pruning.sparsity_percent, pruning.alignment)
    if width.lowered:
        context.progress.note(
            f"alignment {pruning.alignment} lowered to {width.alignment_used}: "
            f"the model's FFN has only {layers[0].width} channels"
        )
    references: tuple[list[Tensor] | None, list[Tensor] | None] = (None, None)
    if pruning.objective != "CrossEntropy":
        context.progress.begin("dense reference", len(train) + len(validation))
        references = (
            dense_references(model, train, on_rows=context.progress.advance),
            dense_references(model, validation, on_rows=context.progress.advance),
        )
    scores = _initial_scores(context, model, train)
    initial = top_k_mask(scores, width.width)
    problem = MaskProblem(model, train, validation, *references, width.width, pruning.objective)
    settings = LoopSettings(
        steps=pruning.steps,
        learning_rate=float(pruning.learning_rate),
        beta2=float(pruning.beta2),
        evaluate_every=pruning.evaluate_every,
        patience=pruning.patience,
    )
    loop = mask_loop(scores.to(compute.device), settings)
    resume(context, loop)
    prepared = time.monotonic()
    context.progress.begin("mask steps", pruning.steps)
    context.progress.advance(loop.step)
    best = learn(
        problem,
        loop,
        batch_size=pruning.batch_size,
        micro_batch_size=pruning.micro_batch_size,
        seed=spec.seed,
        control=StageControl(context),
    )
    bits = top_k_mask(best, width.width).cpu()
    mask_file.save(
        context.output / "mask.safetensors",
        mask_file.Mask(bits, spec.base_model.uri, spec.base_model.revision),
    )
    save_file({"z": best.cpu().contiguous()}, context.output / "scores.safetensors")
    write_jsonl(context.output / "curve.jsonl", loop.curve)
    return StageOutcome(
        metrics={
            "width": width.width,
            "denseWidth": layers[0].width,
            "alignment": width.alignment_used,
            "alignmentLowered": width.lowered,
            "steps": loop.step,
            "bestStep": loop.best_step,
            "validationLossStart": loop.curve[0].validation_loss,
            "validationLoss": loop.best_loss,
            "channelsChanged": int((bits & ~initial).sum()),
            "trainExamples": len(train),
            "leftOutTooLong": train.too_long + validation.too_long,
        },
        timings={"prepare": prepared - started, "learn": time.monotonic() - prepared},
        environment=environment(compute),
    )


def _tokenized(context: StageContext, tokenizer: Any, name: str) -> TokenizedSet:
    examples = read_jsonl(context.input_file("rewrite", name), Example)
    data = tokenize(tokenizer, examples, max_tokens=context.spec.dataset.max_tokens)
    if not len(data):
        raise InputError(
            f"all {len(examples)} examples of {name} have more than "
            f"{context.spec.dataset.max_tokens} tokens",
            hint="Raise dataset.maxTokens or shorten the persona",
            subject="spec.dataset.maxTokens",
        )
    return data


def _initial_scores(context: StageContext, model: Any, train: TokenizedSet) -> Tensor:
    layers = ffn_layers(model)
    if context.spec.pruning.initialization == "Random":
        return random_scores((len(layers), layers[0].width), context.spec.seed)
    return scores_from_rank(activation_rms(model, train))
