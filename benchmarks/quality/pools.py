"""One slice for several personas against one for each, all by the same method and recovery.

Measured on every persona: the slice from all personas' data, the one from all others' data, and the
one from so little of the others' data that it is as much as the persona's own. What a slice is
measured on is nowhere in the data that it is made from: a query of a test set is left out whoever
answers it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from persona_jobs.dataset import Example, Split, normalize_query
from persona_jobs.recovery.data import RecoveryData, WeightedData
from persona_jobs.training.distillation import DistillationDataset

from .cells import Cell, losses, problem_of, prune, ranked, write
from .data import Texts, tokenized_pair, tokenized_tests

METHOD = "optimal-brain-surgeon"
ALL, OTHERS, OTHERS_LESS = "all", "others", "others-equal-data"
FITTED: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class PooledData(RecoveryData):
    """Data of several personas with equal weights.

    Attributes:
        others: examples of the personas after the first one.
    """

    others: tuple[DistillationDataset, ...] = ()

    def parts(self) -> list[WeightedData]:
        own, *generic = super().parts()
        data = (own.data, *self.others)
        return [WeightedData("persona", each, own.weight / len(data)) for each in data] + generic

    def with_dense_hidden_states(
        self, dense: Any, *, train: bool, on_rows: Callable[[int], None]
    ) -> "PooledData":
        whole = super().with_dense_hidden_states(dense, train=train, on_rows=on_rows)
        alone = [RecoveryData(other, self.generic, generic_percent=0) for other in self.others]
        others = tuple(
            data.with_dense_hidden_states(dense, train=train, on_rows=on_rows).persona
            for data in alone
        )
        return replace(whole, others=others)


@dataclass(frozen=True)
class Slice:
    """A slice to make and the personas that it is measured on.

    Attributes:
        source: whose data it is made from, as it is called in the results.
        members: the personas whose data it is.
        measured: the personas that it is measured on.
        like: the persona that there is as little data as of, or None.
    """

    source: str
    members: list[str]
    measured: list[str]
    like: str | None = None

    @property
    def name(self) -> str:
        return self.source if self.source == ALL else f"{self.source}-{self.measured[0]}"


def slices(personas: Sequence[str]) -> list[Slice]:
    """Return the slices in the order in which they are made."""
    found = [Slice(ALL, list(personas), list(personas))]
    for persona in personas:
        others = [other for other in personas if other != persona]
        found += [
            Slice(OTHERS, others, [persona]),
            Slice(OTHERS_LESS, others, [persona], like=persona),
        ]
    return found


def cell_file(folder: Path, source: str, persona: str) -> Path:
    return folder / f"{source}-{persona}.json"


def make(
    folder: Path,
    chosen: Slice,
    dense: Any,
    tokenizer: Any,
    texts: Mapping[str, Texts],
    sparsity_percent: int,
    scratch: Path,
) -> None:
    """Make a slice and measure it, unless that is done.

    Args:
        folder: folder of the results.
        chosen: the slice.
        dense: the dense model.
        tokenizer: its tokenizer.
        texts: every persona's examples, by its name.
        sparsity_percent: share of the channels that is removed.
        scratch: folder for temporary files.
    """
    files = {name: cell_file(folder, chosen.source, name) for name in chosen.measured}
    if all(file.exists() for file in files.values()):
        return
    spec = texts[chosen.members[0]].spec
    data = pooled(chosen, tokenizer, texts)
    problem = problem_of(dense, spec, data, sparsity_percent, scratch)
    ranking, rank_minutes = ranked(folder / f"{chosen.name}.safetensors", METHOD, problem)
    pruned = prune(problem, spec, ranking, "full")
    for name, file in files.items():
        tests = tokenized_tests(dense, tokenizer, texts[name])
        cell = Cell(
            persona=name,
            method=chosen.source,
            sparsity_percent=sparsity_percent,
            width=problem.kept_channels,
            recovery="full",
            train_answers=train_answers(data),
            threads=torch.get_num_threads(),
            rank_minutes=rank_minutes,
            recover_minutes=pruned.minutes,
            kept_parts=pruned.kept_parts,
            sets={kind: losses(pruned.model, answers) for kind, answers in tests.items()},
        )
        write(file, cell)


def train_answers(data: PooledData) -> int:
    return sum(len(part.data.train) for part in data.parts() if part.kind == "persona")


def pooled(chosen: Slice, tokenizer: Any, texts: Mapping[str, Texts]) -> PooledData:
    """Return the members' data without what the slice is measured on."""
    excluded = {
        normalize_query(question)
        for name in chosen.measured
        for question in test_questions(texts[name])
    }
    members = [texts[name] for name in chosen.members]
    like = None if chosen.like is None else texts[chosen.like]

    def persona(member: Texts) -> DistillationDataset:
        return fitted(member, member.persona, None if like is None else like.persona, len(members))

    def fitted(
        member: Texts,
        examples: Mapping[Split, Sequence[Example]],
        limits: Mapping[Split, Sequence[Example]] | None,
        parts: int,
    ) -> DistillationDataset:
        kept = {split: without(examples[split], excluded) for split in FITTED}
        if limits is not None:
            kept = {split: kept[split][: -(-len(limits[split]) // parts)] for split in FITTED}
        return tokenized_pair(member.spec, tokenizer, kept)

    first = members[0]
    generic = fitted(first, first.generic, None if like is None else like.generic, 1)
    return PooledData(
        persona(first),
        generic,
        first.spec.recovery.generic_percent,
        tuple(persona(member) for member in members[1:]),
    )


def test_questions(texts: Texts) -> list[str]:
    """Return the questions of everything that a slice is measured on for this persona."""
    asked = [example.query for examples in texts.tests().values() for example in examples]
    return asked + texts.questions


def without(examples: Iterable[Example], excluded: set[str]) -> list[Example]:
    return [example for example in examples if normalize_query(example.query) not in excluded]
