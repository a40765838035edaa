"""Both parts of the recovery in order, for the persona's mask and for the baseline alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pipeline.context import Progress, SilentProgress
from ..training.trainer import Control, NoControl, Trainer
from .fine_tune import FineTuneConfig, RecoveryData, fine_tune, fine_tune_trainer
from .refit import refit


@dataclass(frozen=True)
class RecoveryConfig:
    """Which parts of the recovery run, and how.

    Attributes:
        ridge: strength of the refit's penalty; None leaves the refit out.
        fine_tune: settings of the fine-tuning; None leaves it out.
    """

    ridge: float | None
    fine_tune: FineTuneConfig | None


def recover(
    dense: Any,
    sliced: Any,
    data: RecoveryData,
    config: RecoveryConfig,
    *,
    scratch: Path,
    progress: Progress | None = None,
    control: Control | None = None,
) -> Trainer | None:
    """Refit and fine-tune `sliced` in place.

    A fine-tuning that resumes from a saved state skips the refit: the state holds its result.

    Args:
        dense: the dense model.
        sliced: the same model without the pruned channels.
        data: examples.
        config: what runs.
        scratch: directory for temporary files.
        progress: receiver of progress, except that of the fine-tuning's steps.
        control: progress, interruption and resume state of the fine-tuning.

    Returns:
        The fine-tuning's trainer with its curve, or None without fine-tuning.
    """
    progress, control = progress or SilentProgress(), control or NoControl()
    tuning = config.fine_tune
    trainer = None if tuning is None else fine_tune_trainer(sliced, tuning)
    resumed = trainer is not None and control.resume(trainer)
    if config.ridge is not None and not resumed:
        progress.begin("refitted layers", dense.config.num_hidden_layers)
        refit(
            dense,
            sliced,
            [data.persona.train, data.generic.train],
            ridge=config.ridge,
            scratch=scratch,
            on_layer=progress.advance,
        )
        if tuning is not None:
            trainer = fine_tune_trainer(sliced, tuning)
            control.save_state(trainer.save_state)  # what the refit has found is not solved twice
    if tuning is None or trainer is None:
        return None
    progress.begin("dense reference", len(data.persona) + len(data.generic))
    data = RecoveryData(
        data.persona.with_dense_hidden_states(dense, on_rows=progress.advance),
        data.generic.with_dense_hidden_states(dense, on_rows=progress.advance),
    )
    progress.begin("fine-tuning steps", tuning.training.steps)
    progress.advance(trainer.step)
    fine_tune(sliced, data, tuning, trainer, control)
    return trainer
