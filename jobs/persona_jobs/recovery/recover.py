"""Both parts of the recovery in order, for the persona's mask and for the baseline alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.passes import dense_references
from ..training.tokens import TokenizedSet
from ..training.trainer import Control, Loop, LoopSettings
from .fine_tune import DistillationSet, fine_tune, fine_tune_loop
from .refit import refit


@dataclass(frozen=True)
class FineTuneSettings:
    """Settings of the fine-tuning.

    Attributes:
        loop: steps, step size, early stop.
        batch_size: conversations a step.
        micro_batch_size: conversations a forward pass.
        generic_percent: generic share of each batch.
        seed: decides the batches.
    """

    loop: LoopSettings
    batch_size: int
    micro_batch_size: int
    generic_percent: int
    seed: int


@dataclass(frozen=True)
class RecoverySettings:
    """What is done.

    Attributes:
        ridge: pull of the refit; None leaves the refit out.
        fine_tune: None leaves the fine-tuning out.
    """

    ridge: float | None
    fine_tune: FineTuneSettings | None


@dataclass(frozen=True)
class RecoveryData:
    """Examples of the persona, and general ones without it, so that general ability holds.

    Attributes:
        train: the persona's training examples.
        validation: the persona's held-out examples.
        generic_train: general examples.
        generic_validation: held-out general examples.
    """

    train: TokenizedSet
    validation: TokenizedSet
    generic_train: TokenizedSet
    generic_validation: TokenizedSet


@dataclass
class RecoveryHooks:
    """What the caller may want to know or do.

    Attributes:
        begin: called with the name and the number of units of each part.
        advance: called after units of a part.
        resume: given the fine-tuning's run; True if it goes on from a checkpoint, and the refit is
            left out because the checkpoint holds its result.
        control: progress and interruption of the fine-tuning.
    """

    begin: Callable[[str, int], None] = lambda _what, _total: None
    advance: Callable[[int], None] = lambda _count: None
    resume: Callable[[Loop], bool] = lambda _loop: False
    control: Control | None = None


def recover(
    dense: Any,
    cut: Any,
    data: RecoveryData,
    settings: RecoverySettings,
    *,
    scratch: Path,
    hooks: RecoveryHooks | None = None,
) -> Loop | None:
    """Refit and fine-tune `cut` in place, as the settings say.

    Args:
        dense: the uncut model.
        cut: the same model without the channels that the mask leaves out.
        data: examples.
        settings: what is done.
        scratch: directory for temporary files.
        hooks: progress and interruption.

    Returns:
        the fine-tuning's run with its curve, or None without one.
    """
    hooks = hooks or RecoveryHooks()
    tuning = settings.fine_tune
    loop = None if tuning is None else fine_tune_loop(cut, tuning.loop)
    resumed = loop is not None and hooks.resume(loop)
    if settings.ridge is not None and not resumed:
        hooks.begin("refitted layers", dense.config.num_hidden_layers)
        refit(
            dense,
            cut,
            [data.train, data.generic_train],
            ridge=settings.ridge,
            scratch=scratch,
            on_layer=lambda: hooks.advance(1),
        )
        if tuning is not None:
            loop = fine_tune_loop(cut, tuning.loop)
    if tuning is None or loop is None:
        return None
    parts = (data.train, data.validation, data.generic_train, data.generic_validation)
    hooks.begin("dense reference", sum(len(part) for part in parts))
    references = [dense_references(dense, part, on_rows=hooks.advance) for part in parts]
    persona = DistillationSet(data.train, references[0], data.validation, references[1])
    generic = DistillationSet(
        data.generic_train, references[2], data.generic_validation, references[3]
    )
    hooks.begin("fine-tuning steps", tuning.loop.steps)
    hooks.advance(loop.step)
    fine_tune(
        cut,
        persona,
        generic if len(generic.train) and len(generic.validation) else None,
        loop,
        generic_percent=tuning.generic_percent,
        batch_size=tuning.batch_size,
        micro_batch_size=tuning.micro_batch_size,
        seed=tuning.seed,
        control=hooks.control,
    )
    return loop
