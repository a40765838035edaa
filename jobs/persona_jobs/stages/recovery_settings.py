"""The spec's recovery as plain values, for the recover stage and for the baseline."""

from collections.abc import Sequence
from typing import Any

from ..api import PersonaModelSpec
from ..api.training import Reconstruct
from ..dataset import Example, ScoredQuery, Split, generic_split, read_jsonl
from ..models.special_tokens import special_tokens
from ..pipeline.context import StageContext
from ..recovery.data import RecoveryData
from ..recovery.fine_tune import LEARNING_RATES, FineTuneConfig
from ..recovery.recover import RecoveryConfig, RefitConfig
from ..recovery.refit import RIDGES
from ..training.distillation import (
    MAX_TRAIN_EXAMPLES,
    MAX_VALIDATION_EXAMPLES,
    DistillationDataset,
    train_limit,
)
from ..training.tokens import TokenizedSet, tokenize
from ..training.trainer import TrainingConfig
from .common import file_questions


def recovery_config(spec: PersonaModelSpec) -> RecoveryConfig:
    """Return the recovery that the spec asks for."""
    recovery = spec.recovery
    refit, reconstruct, tuning = recovery.refit, recovery.reconstruct, recovery.fine_tune
    rates = LEARNING_RATES[tuning.weights]
    if tuning.learning_rate is not None:
        rates = (float(tuning.learning_rate),)
    fine_tune = FineTuneConfig(
        training=TrainingConfig(
            steps=tuning.steps,
            batch_size=tuning.batch_size,
            micro_batch_size=tuning.micro_batch_size,
            learning_rate=rates[0],
            beta2=0.98,
            warmup=max(1, tuning.steps // 20),
            evaluate_every=tuning.evaluate_every,
            patience=tuning.patience,
            seed=spec.seed,
        ),
        learning_rates=rates,
        weights=tuning.weights,
        lora_rank=tuning.lora_rank or 1,
    )
    ridges = RIDGES if refit.ridge is None else (float(refit.ridge),)
    return RecoveryConfig(
        refit=RefitConfig(ridges) if refit.enabled else None,
        reconstruct=_block_training(reconstruct, spec.seed) if reconstruct.enabled else None,
        fine_tune=fine_tune if tuning.enabled else None,
    )


def _block_training(settings: Reconstruct, seed: int) -> TrainingConfig:
    return TrainingConfig(
        steps=settings.steps,
        batch_size=settings.batch_tokens,
        micro_batch_size=settings.batch_tokens,
        learning_rate=float(settings.learning_rate),
        beta2=0.98,
        warmup=settings.steps // 20,
        evaluate_every=max(1, settings.steps // 6),
        patience=2,
        seed=seed,
    )


def recovery_data(context: StageContext, tokenizer: Any) -> RecoveryData:
    """Return the rewrite stage's examples, and general ones from the queries that were not kept.

    Of each kind, only as many as a recovery has use for: the first ones, in an order that is random
    already.
    """
    tuning = context.spec.recovery.fine_tune
    train = train_limit(tuning.steps, tuning.batch_size) if tuning.enabled else MAX_TRAIN_EXAMPLES
    return _data(context, tokenizer, train)


def closed_form_data(context: StageContext, tokenizer: Any) -> RecoveryData:
    """Return what the choice of channels reads: the same examples, whatever the fine-tuning."""
    return _data(context, tokenizer, MAX_TRAIN_EXAMPLES)


def _data(context: StageContext, tokenizer: Any, train: int) -> RecoveryData:
    limits: dict[Split, int] = {"train": train, "validation": MAX_VALIDATION_EXAMPLES}
    scored = read_jsonl(context.input_file("score", "queries.jsonl"), ScoredQuery)
    held_out = read_jsonl(context.input_file("rewrite", "test.jsonl"), Example)
    asked = [*file_questions(context), *(example.query for example in held_out)]
    generic = generic_split(scored, asked)
    special = special_tokens(tokenizer)

    def persona(name: Split) -> TokenizedSet:
        path = context.input_file("rewrite", f"{name}.jsonl")
        return tokenized(read_jsonl(path, Example)[: limits[name]])

    def tokenized(examples: Sequence[Example]) -> TokenizedSet:
        return tokenize(tokenizer, examples, max_tokens=context.spec.dataset.max_tokens)

    def plain(examples: Sequence[Example]) -> list[Example]:
        # An answer that ends with a special token would teach to write it.
        return [
            example
            for example in examples
            if not any(token in example.query or token in example.answer for token in special)
        ]

    return RecoveryData(
        persona=DistillationDataset(persona("train"), persona("validation")),
        generic=DistillationDataset(
            tokenized(plain(generic["train"])[: limits["train"]]),
            tokenized(plain(generic["validation"])[: limits["validation"]]),
        ),
        generic_percent=context.spec.recovery.generic_percent,
    )
