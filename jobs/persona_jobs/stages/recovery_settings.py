"""The spec's recovery as plain values, for the recover stage and for the baseline."""

from typing import Any

from ..api import PersonaModelSpec
from ..dataset import Example, ScoredQuery, generic_split, read_jsonl
from ..pipeline.context import StageContext
from ..recovery.recover import FineTuneSettings, RecoveryData, RecoverySettings
from ..training.tokens import TokenizedSet, tokenize
from ..training.trainer import LoopSettings


def recovery_settings(spec: PersonaModelSpec) -> RecoverySettings:
    """What the spec asks for."""
    refit, tuning = spec.recovery.refit, spec.recovery.fine_tune
    settings = FineTuneSettings(
        loop=LoopSettings(
            steps=tuning.steps,
            learning_rate=float(tuning.learning_rate),
            beta2=0.98,
            evaluate_every=tuning.evaluate_every,
            patience=tuning.patience,
            warmup=max(1, tuning.steps // 20),
        ),
        batch_size=tuning.batch_size,
        micro_batch_size=tuning.micro_batch_size,
        generic_percent=tuning.generic_percent,
        seed=spec.seed,
    )
    return RecoverySettings(
        ridge=float(refit.ridge) if refit.enabled else None,
        fine_tune=settings if tuning.enabled else None,
    )


def recovery_data(context: StageContext, tokenizer: Any) -> RecoveryData:
    """The examples of the rewrite stage, and general ones from the queries that were not kept."""
    scored = read_jsonl(context.input_file("score", "queries.jsonl"), ScoredQuery)
    generic = generic_split(scored)

    def persona(name: str) -> TokenizedSet:
        return _tokenized(read_jsonl(context.input_file("rewrite", name), Example))

    def _tokenized(examples: list[Example]) -> TokenizedSet:
        return tokenize(tokenizer, examples, max_tokens=context.spec.dataset.max_tokens)

    return RecoveryData(
        train=persona("train.jsonl"),
        validation=persona("validation.jsonl"),
        generic_train=_tokenized(generic["train"]),
        generic_validation=_tokenized(generic["validation"]),
    )
