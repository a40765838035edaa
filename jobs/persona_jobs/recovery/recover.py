"""The parts of the recovery in order, for the persona's mask and for the baseline alike.

A part's result is used only if it lowers the divergence from the dense model on held-out data; the
model before it is a candidate too. So recovery never makes the model worse unnoticed.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..dataset import CurvePoint
from ..errors import StageInterruptedError
from ..models.families import ffn_layers
from ..pipeline.context import Progress, SilentProgress
from ..pipeline.results import HeldOutKl, PartName, RecoveryPart
from ..training.trainer import Control, NoControl, Resumable, Trainer, TrainingConfig
from .data import RecoveryData, check_data, data_warnings, held_out_kl
from .fine_tune import FineTuneConfig, best_learning_rate, fine_tune
from .reconstruct import reconstruct_block
from .refit import refit_block
from .run import RecoveryRun, Weights, put
from .trained_weights import TrainedWeights, trained_weights
from .walk import BlockStep, walk


@dataclass(frozen=True)
class RefitConfig:
    """Settings of the refit.

    Attributes:
        ridges: strengths of the penalty; of several, the one with the lowest divergence on
            held-out data is taken.
    """

    ridges: tuple[float, ...]


@dataclass(frozen=True)
class RecoveryConfig:
    """Which parts of the recovery run, and how; a part that is None is left out.

    Attributes:
        refit: settings of the refit.
        reconstruct: hyperparameters of each block's reconstruction; batches are tokens.
        fine_tune: settings of the fine-tuning.
    """

    refit: RefitConfig | None
    reconstruct: TrainingConfig | None
    fine_tune: FineTuneConfig | None


@dataclass(frozen=True)
class Recovered:
    """What a recovery did.

    Attributes:
        start: divergence of the pruned model before it.
        end: divergence of the result.
        parts: the parts that ran, used or not.
        weights: float32 weights, by name, that differ from the pruned model's.
        curve: losses of the fine-tuning.
        warnings: sentences about what there is too little of.
    """

    start: HeldOutKl
    end: HeldOutKl
    parts: list[RecoveryPart]
    weights: Weights
    curve: list[CurvePoint]
    warnings: list[str]


def recover(
    dense: Any,
    sliced: Any,
    data: RecoveryData,
    config: RecoveryConfig,
    *,
    scratch: Path,
    progress: Progress | None = None,
    control: Control | None = None,
) -> Recovered:
    """Recover `sliced` in place.

    Args:
        dense: the dense model.
        sliced: the same model without the pruned channels.
        data: examples.
        config: what runs.
        scratch: directory for temporary files.
        progress: receiver of progress, except that of the fine-tuning's steps.
        control: interruption and resume state.

    Raises:
        InputError: the persona has no training or no held-out answers, or a loss is not finite.
    """
    check_data(data)
    recovery = _Recovery(
        dense, sliced, config, scratch, progress or SilentProgress(), control or NoControl()
    )
    return recovery.run(data)


class _Recovery:
    """The parts over one model."""

    def __init__(
        self,
        dense: Any,
        sliced: Any,
        config: RecoveryConfig,
        scratch: Path,
        progress: Progress,
        control: Control,
    ) -> None:
        self._dense, self._sliced, self._config = dense, sliced, config
        self._scratch, self._progress, self._control = scratch, progress, control
        self._state = RecoveryRun(self._trainer)
        self._trained: TrainedWeights | None = None
        self._part_started = time.monotonic()

    def run(self, data: RecoveryData) -> Recovered:
        """Run the parts that are left."""
        state, config = self._state, self._config
        warnings = data_warnings(data, ffn_layers(self._sliced)[0].intermediate_size)
        for warning in warnings:
            self._progress.note(warning)
        self._control.resume(state)
        if state.trainer is None:  # otherwise they are in, perhaps under adapters
            put(self._sliced, state.weights)
        train = config.fine_tune is not None
        self._progress.begin("dense reference", data.rows(train=train))
        data = data.with_dense_hidden_states(
            self._dense, train=train, on_rows=self._progress.advance
        )
        start = state.start = state.start or held_out_kl(self._sliced, data)
        refit, reconstruct, tuning = config.refit, config.reconstruct, config.fine_tune
        if refit is not None:
            self._part("refit", data, lambda: self._refit(data, refit))
        if reconstruct is not None:
            self._part("reconstruct", data, lambda: self._reconstruct(data, reconstruct))
        if tuning is not None:
            self._part("fineTune", data, lambda: self._fine_tune(data, tuning))
        end = state.present or start
        return Recovered(start, end, state.parts, state.weights, state.curve, warnings)

    def _part(self, name: PartName, data: RecoveryData, work: Callable[[], Weights]) -> None:
        """Run one part unless it is finished, and keep its result if it helps.

        Args:
            name: the part.
            data: examples with the dense model's hidden states.
            work: changes the sliced model and the state's `fitted` and `settings`; returns the
                weights that it replaced.
        """
        state, before = self._state, self._state.present
        if before is None or any(part.name == name for part in state.parts):
            return
        if state.parts:
            self._save()  # what a finished part has found is not computed twice
        self._part_started = time.monotonic()
        replaced = work()
        with self._saved_when_stopped():
            after = held_out_kl(self._sliced, data)
        kept = after.weighted < before.weighted
        if not kept:
            put(self._sliced, replaced)
            self._progress.note(
                f"{name} is left out: with it the divergence on held-out data is "
                f"{after.weighted:.4f}, without it {before.weighted:.4f}"
            )
        seconds = round(state.seconds + time.monotonic() - self._part_started, 1)
        state.finish(name, kept=kept, before=before, after=after, seconds=seconds)

    def _refit(self, data: RecoveryData, config: RefitConfig) -> Weights:
        state, dtype = self._state, next(self._sliced.parameters()).dtype

        def fit(step: BlockStep) -> None:
            solutions = refit_block(step, config.ridges)
            state.fitted[step.down] = step.block.down.weight.to("cpu", copy=True)
            if len(solutions) > 1:
                for ridge, weight in solutions.items():
                    state.candidates.setdefault(str(ridge), {})[step.down] = weight.to("cpu", dtype)

        replaced = self._blocks("refitted layers", data, fit)
        if state.candidates:
            self._choose(data)
        else:
            state.settings["ridge"] = str(config.ridges[0])
        return replaced

    def _choose(self, data: RecoveryData) -> None:
        """Take the ridge with the lowest divergence on held-out data."""
        state, measured = self._state, {}
        self._progress.begin("ridges", len(state.candidates))
        for ridge, weights in state.candidates.items():
            with self._saved_when_stopped():
                put(self._sliced, weights)
                measured[ridge] = held_out_kl(self._sliced, data).weighted
                self._progress.advance()
        best = min(measured, key=lambda ridge: measured[ridge])
        state.fitted = state.candidates[best]
        put(self._sliced, state.fitted)
        state.settings["ridge"] = best
        state.settings["tried"] = {ridge: round(value, 4) for ridge, value in measured.items()}

    def _reconstruct(self, data: RecoveryData, config: TrainingConfig) -> Weights:
        state = self._state
        control = _PartControl(self._control, self._save, on_step=lambda: None)

        def fit(step: BlockStep) -> None:
            seeded = replace(config, seed=config.seed + 1000 * state.blocks)
            best = reconstruct_block(step, seeded, control)
            state.settings.setdefault("bestSteps", []).append(best)
            if best:
                for name, weight in step.parameters.items():
                    state.fitted[name] = weight.to("cpu", copy=True)

        return self._blocks("reconstructed blocks", data, fit)

    def _blocks(self, what: str, data: RecoveryData, fit: Callable[[BlockStep], None]) -> Weights:
        """Fit the blocks that are left; returns the weights that were replaced, on the CPU."""
        state = self._state
        self._progress.begin(what, len(ffn_layers(self._sliced)))
        replaced: Weights = {}
        steps = walk(
            self._dense,
            self._sliced,
            data.train_sets(),
            data.held_out_sets(),
            scratch=self._scratch,
            weights=state.weights,
        )
        for index in itertools.count():
            with self._saved_when_stopped():
                step = next(steps, None)
                if step is None:
                    return replaced
                originals = {name: p.to("cpu", copy=True) for name, p in step.parameters.items()}
                if index < state.blocks:
                    step.load(state.fitted)
                else:
                    fit(step)
                    state.blocks += 1
                replaced |= {name: p for name, p in originals.items() if name in state.fitted}
            if self._control.save_due:
                self._save()
            with self._saved_when_stopped():
                self._progress.advance()
        return replaced

    def _trainer(self, weights: Weights, learning_rate: float) -> Trainer:
        tuning = self._config.fine_tune
        if tuning is None:
            raise ValueError("the saved state is that of a fine-tuning, which is switched off")
        config = replace(tuning.training, learning_rate=learning_rate)
        return Trainer(self._trained_weights(weights, tuning).initial(), config)

    def _trained_weights(self, weights: Weights, tuning: FineTuneConfig) -> TrainedWeights:
        if self._trained is None:
            put(self._sliced, weights)
            self._trained = trained_weights(
                self._dense,
                self._sliced,
                weights,
                tuning.weights,
                rank=tuning.lora_rank,
                seed=tuning.training.seed,
            )
        return self._trained

    def _fine_tune(self, data: RecoveryData, tuning: FineTuneConfig) -> Weights:
        state, rates = self._state, tuning.learning_rates
        trained = self._trained_weights(state.weights, tuning)
        if state.trainer is None:
            rate = rates[0]
            if len(rates) > 1:
                self._progress.begin("learning rates", len(rates))
                with self._saved_when_stopped():
                    rate = best_learning_rate(
                        self._sliced, data, trained, tuning, self._progress.advance
                    )
            state.trainer = self._trainer(state.weights, rate)
        trainer = state.trainer
        self._progress.begin("fine-tuning steps", tuning.training.steps)
        self._progress.advance(trainer.step)
        control = _PartControl(self._control, self._save, on_step=self._control.step_done)
        fine_tune(self._sliced, data, trained, trainer, control)
        state.fitted, state.curve = trained.finish(trainer.best), trainer.curve
        state.settings = {
            "learningRate": str(trainer.config.learning_rate),
            "steps": trainer.step,
            "bestStep": trainer.best_step,
        }
        return {}

    @contextmanager
    def _saved_when_stopped(self) -> Iterator[None]:
        """Save what is finished when the body is interrupted."""
        try:
            yield
        except StageInterruptedError:
            self._save()
            raise

    def _save(self) -> None:
        now = time.monotonic()
        self._state.seconds += now - self._part_started
        self._part_started = now
        self._control.save_state(self._state.save_state)


class _PartControl:
    """The control of a trainer within a part: it saves the state of the whole recovery."""

    def __init__(
        self, control: Control, save: Callable[[], None], on_step: Callable[[], None]
    ) -> None:
        self._control, self._save, self._on_step = control, save, on_step

    def resume(self, _: Resumable) -> bool:
        """Start where the recovery's own state says."""
        return False

    def step_done(self) -> None:
        """Pass it on."""
        self._on_step()

    @property
    def save_due(self) -> bool:
        """Whether the state is to be saved now."""
        return self._control.save_due

    def save_state(self, _: Callable[[Path], None]) -> None:
        """Save the recovery's state."""
        self._save()
