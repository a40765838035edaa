"""One cell of the table: a persona's model by one method at one width, with one recovery."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from persona_jobs.api import PersonaModelSpec
from persona_jobs.api.training import OptimalBrainSurgeon as SurgeonSettings
from persona_jobs.models.families import ffn_layers
from persona_jobs.models.kept_channels import kept_channels
from persona_jobs.models.prefix import run_prefix
from persona_jobs.models.slicing import sliced_copy
from persona_jobs.models.topk import top_k_mask
from persona_jobs.recovery.data import RecoveryData
from persona_jobs.recovery.recover import recover
from persona_jobs.stages.recovery_settings import recovery_config
from persona_jobs.training.losses import answer_loss_value
from persona_jobs.training.passes import answer_hidden_states, labels_of
from persona_jobs.training.tokens import TokenizedSet
from persona_jobs.training.trainer import TrainingConfig

from .data import PersonaData, write_json
from .methods import METHODS, Problem, Ranking
from .settings import Recovery

RECOVERIES: tuple[Recovery, ...] = ("none", "full")


# Losses in files have as many digits as the tables could show.
Rounded = Annotated[float, PlainSerializer(lambda value: round(value, 5))]


class Losses(BaseModel):
    """Mean loss per token of every answer of a set, in nats."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    kl: list[Rounded]
    cross_entropy: list[Rounded]


class Cell(BaseModel):
    """What was measured.

    Attributes:
        persona: name of the persona.
        method: name of the method.
        sparsity_percent: share of the channels that was to be removed.
        width: channels kept in every layer.
        recovery: which recovery.
        train_answers: answers in character that it was made from.
        threads: torch's threads.
        rank_minutes: processor time that the choice of channels took.
        recover_minutes: processor time that the recovery took.
        kept_parts: parts of the recovery that helped on held-out data.
        sets: losses by the name of the set.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    persona: str
    method: str
    sparsity_percent: int
    width: int
    recovery: Recovery
    train_answers: int
    threads: int
    rank_minutes: float
    recover_minutes: float
    kept_parts: list[str]
    sets: dict[str, Losses]


@dataclass(frozen=True)
class Place:
    """Where a persona's results are kept.

    Attributes:
        persona: name of the persona.
        folder: folder of its results.
        scratch: folder for temporary files.
    """

    persona: str
    folder: Path
    scratch: Path

    def cell(self, method: str, sparsity_percent: int, recovery: Recovery) -> Path:
        return self.folder / f"{method}-{sparsity_percent}-{recovery}.json"

    def ranking(self, method: str, sparsity_percent: int) -> Path:
        return self.folder / f"{method}-{sparsity_percent}.safetensors"


def make(place: Place, dense: Any, data: PersonaData, method: str, sparsity_percent: int) -> None:
    """Make the cells of a method at a width that are not there yet."""
    missing = [r for r in RECOVERIES if not place.cell(method, sparsity_percent, r).exists()]
    if not missing:
        return
    problem = problem_of(dense, data.spec, data.recovery, sparsity_percent, place.scratch)
    ranking, rank_minutes = ranked(place.ranking(method, sparsity_percent), method, problem)
    for recovery in missing:
        pruned = prune(problem, data.spec, ranking, recovery)
        cell = Cell(
            persona=place.persona,
            method=method,
            sparsity_percent=sparsity_percent,
            width=problem.kept_channels,
            recovery=recovery,
            train_answers=len(data.recovery.persona.train),
            threads=torch.get_num_threads(),
            rank_minutes=rank_minutes,
            recover_minutes=pruned.minutes,
            kept_parts=pruned.kept_parts,
            sets={name: losses(pruned.model, tests) for name, tests in data.tests.items()},
        )
        write(place.cell(method, sparsity_percent, recovery), cell)


def write(file: Path, cell: Cell) -> None:
    """Write a cell's file and print its means."""
    write_json(file, cell.model_dump(mode="json", by_alias=True))
    print(
        f"{cell.persona} {cell.method} {cell.sparsity_percent} % {cell.recovery}: "
        + ", ".join(f"{name} {_mean(item.kl):.3f}" for name, item in cell.sets.items()),
        flush=True,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def problem_of(
    dense: Any, spec: PersonaModelSpec, data: RecoveryData, sparsity_percent: int, scratch: Path
) -> Problem:
    """Return what channels are ranked for at a width."""
    size = ffn_layers(dense)[0].intermediate_size
    return Problem(
        model=dense,
        data=data,
        kept_channels=kept_channels(size, sparsity_percent, spec.pruning.alignment).count,
        training=_training(spec),
        ridge=float(SurgeonSettings().ridge),
        scratch=scratch,
    )


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes:
        model: the model.
        kept_parts: parts of the recovery that helped on held-out data.
        minutes: processor time of slicing and recovery.
    """

    model: Any
    kept_parts: list[str]
    minutes: float


def prune(problem: Problem, spec: PersonaModelSpec, ranking: Ranking, recovery: Recovery) -> Pruned:
    """Remove the channels that a ranking does not keep, and recover the model."""
    mask = top_k_mask(ranking.scores, problem.kept_channels)
    scales = None if ranking.scales is None else ranking.scales.where(mask, 1.0)
    started = time.process_time()
    model = sliced_copy(problem.model, mask, scales=scales)
    parts: list[str] = []
    if recovery == "full":
        result = recover(
            problem.model, model, problem.data, recovery_config(spec), scratch=problem.scratch
        )
        parts = [part.name for part in result.parts if part.kept]
    return Pruned(model, parts, (time.process_time() - started) / 60)


def ranked(file: Path, method: str, problem: Problem) -> tuple[Ranking, float]:
    """Return the method's ranking and the minutes of processor time that it took; made once."""
    if not file.exists():
        started = time.process_time()
        ranking = METHODS[method](problem)
        minutes = (time.process_time() - started) / 60
        tensors = {"scores": ranking.scores.detach().float().cpu().contiguous()}
        if ranking.scales is not None:
            tensors["scales"] = ranking.scales.detach().float().cpu().contiguous()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file(tensors, part, metadata={"minutes": str(minutes)})
        part.rename(file)
    with safe_open(file, framework="pt") as stored:
        names = stored.keys()
        scales = stored.get_tensor("scales") if "scales" in names else None
        return Ranking(stored.get_tensor("scores"), scales), float(stored.metadata()["minutes"])


def _training(spec: PersonaModelSpec) -> TrainingConfig:
    """Return the settings of mask learning that the spec gives."""
    learning = spec.pruning.straight_through
    if learning is None:
        raise SystemExit("The settings' spec.pruning.method must be StraightThrough")
    return TrainingConfig(
        steps=learning.steps,
        batch_size=learning.batch_size,
        micro_batch_size=learning.micro_batch_size,
        learning_rate=float(learning.learning_rate),
        beta2=float(learning.beta2),
        evaluate_every=learning.evaluate_every,
        patience=learning.patience,
        seed=spec.seed,
    )


@torch.no_grad()
def losses(model: Any, data: TokenizedSet) -> Losses:
    """Return every answer's mean KL to the dense model and cross-entropy, in nats per token.

    Args:
        model: the model to measure.
        data: answers with the dense model's hidden states.
    """
    head = model.get_output_embeddings()
    prefix = run_prefix(model, data.prefix)
    found: dict[int, tuple[float, float]] = {}
    for rows in data.batches():
        output = answer_hidden_states(model, prefix, data, rows)
        by_row = torch.split(output.hidden_states, output.counts)
        for row, hidden_states in zip(rows, by_row, strict=True):
            labels = labels_of(data, [row], hidden_states.device)
            found[row] = _row_losses(
                head, hidden_states, labels, data.dense_hidden_states_of([row])
            )
    ordered = [found[row] for row in range(len(data))]
    return Losses(kl=[kl for kl, _ in ordered], cross_entropy=[ce for _, ce in ordered])


def _row_losses(
    head: Any, hidden_states: Tensor, labels: Tensor, dense: Tensor | None
) -> tuple[float, float]:
    kl = answer_loss_value(head, hidden_states, labels, dense, "KL")
    cross_entropy = answer_loss_value(head, hidden_states, labels, None, "CrossEntropy")
    return kl / len(labels), cross_entropy / len(labels)
