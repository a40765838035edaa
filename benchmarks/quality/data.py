"""Personas, their data from the pipeline's own stages, and the sets to measure on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona_jobs.api import PersonaModelSpec
from persona_jobs.cli.local import default_cache
from persona_jobs.dataset import (
    Example,
    ScoredQuery,
    Split,
    generic_split,
    read_jsonl,
    write_jsonl,
)
from persona_jobs.models.chat import messages, render
from persona_jobs.models.generation import generate
from persona_jobs.pipeline.graph import plan
from persona_jobs.pipeline.process import LogProgress
from persona_jobs.pipeline.runner import run_stage
from persona_jobs.recovery.data import RecoveryData
from persona_jobs.sources import evaluation_files, personas
from persona_jobs.store import StageArtifacts, open_store
from persona_jobs.training.distillation import DistillationDataset
from persona_jobs.training.passes import with_dense_hidden_states
from persona_jobs.training.tokens import TokenizedSet, tokenize

from .settings import Settings

KINDS = ("general", "specific")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DATA_STAGES = ("reference", "score", "rewrite")


@dataclass(frozen=True)
class Persona:
    """A persona, and another role that the model is measured in.

    Attributes:
        name: its name in the results.
        text: its text.
        question_files: evaluation files whose questions stay out of training.
        role: system prompt of the other role.
        role_questions: questions to that role.
    """

    name: str
    text: str
    question_files: list[Path]
    role: str
    role_questions: list[str]


def from_folder(folder: Path, count: int) -> list[Persona]:
    """Read personas 0, 1, … of a folder of evaluation files in the format of the paper's data."""
    found = []
    for number in range(count):
        own = [folder / f"persona_alpaca_{kind}_user_{number}.json" for kind in KINDS]
        others = [folder / f"rolebench_{kind}_user_{number}.json" for kind in KINDS]
        sets = [evaluation_files.load(file.resolve().as_uri()) for file in (*own, *others)]
        text, role = sets[0].persona_description, sets[2].system_prompt
        if text is None or role is None:
            raise SystemExit(f"{own[0]} or {others[0]} lacks its persona")
        questions = [question for item in sets[2:] for question in item.questions]
        files = [file.resolve() for file in (*own, *others)]
        found.append(Persona(f"persona-{number}", text.strip(), files, role, questions))
    return found


def built_in(count: int) -> list[Persona]:
    """Return the project's own personas; each one's other role is the next persona."""
    known = personas.load("builtin://general")
    if count >= len(known):
        raise SystemExit(f"There are {len(known)} built-in personas: measure fewer than that")
    return [
        Persona(f"built-in-{number}", known[number].text, [], known[number + 1].text, [])
        for number in range(count)
    ]


@dataclass(frozen=True)
class Texts:
    """A persona's examples before they are tokenized.

    Attributes:
        spec: the resolved spec.
        persona: the persona's answers by split.
        generic: general examples by split.
        role_play: the dense model's own answers in another role.
        questions: questions of the evaluation files.
    """

    spec: PersonaModelSpec
    persona: Mapping[Split, list[Example]]
    generic: Mapping[Split, list[Example]]
    role_play: list[Example]
    questions: list[str]

    def tests(self) -> dict[str, list[Example]]:
        """Return the sets to measure on by name."""
        return {
            "persona": self.persona["test"],
            "rolePlay": self.role_play,
            "generic": self.generic["test"],
        }


@dataclass(frozen=True)
class PersonaData:
    """Everything that a persona's rankings, recoveries and measurements read.

    Attributes:
        spec: the resolved spec.
        recovery: training and held-out examples with the dense model's hidden states.
        tests: sets to measure on, by name, with the dense model's hidden states.
    """

    spec: PersonaModelSpec
    recovery: RecoveryData
    tests: dict[str, TokenizedSet]


def run_stages(spec: PersonaModelSpec, work: Path) -> dict[str, Path]:
    """Make the persona's data with the pipeline's stages and return their folders."""
    cache = default_cache()
    artifacts = StageArtifacts(open_store((work / "store").resolve().as_uri()), cache / "store")
    folders = {}
    for planned in plan(spec):
        if planned.name in DATA_STAGES:
            run_stage(spec, planned, artifacts, cache=cache, progress=LogProgress(planned.name))
            folders[planned.name] = artifacts.local_dir(planned.name, planned.key)
    return folders


def read(
    settings: Settings,
    persona: Persona,
    spec: PersonaModelSpec,
    folders: dict[str, Path],
    dense: Any,
    tokenizer: Any,
    role_play_file: Path,
) -> Texts:
    """Return the persona's examples.

    Args:
        settings: what is measured.
        persona: the persona.
        spec: its resolved spec.
        folders: folders of the stages' results.
        dense: the dense model.
        tokenizer: its tokenizer.
        role_play_file: where its answers in the other role are kept.
    """
    questions = [
        question
        for file in persona.question_files
        for question in evaluation_files.load(file.as_uri()).questions
    ]
    generic = generic_split(read_jsonl(folders["score"] / "queries.jsonl", ScoredQuery), questions)
    # Without files the other role answers the general questions that no training sees.
    role_questions = persona.role_questions or [example.query for example in generic["test"]]
    role_play = role_play_answers(
        dense,
        tokenizer,
        persona.role,
        role_questions[: settings.role_play_questions],
        settings.answer_tokens,
        role_play_file,
    )
    own = {split: read_jsonl(folders["rewrite"] / f"{split}.jsonl", Example) for split in SPLITS}
    return Texts(spec, own, generic, role_play, questions)


def tokenized(spec: PersonaModelSpec, tokenizer: Any, examples: Sequence[Example]) -> TokenizedSet:
    return tokenize(tokenizer, examples, max_tokens=spec.dataset.max_tokens)


def tokenized_pair(
    spec: PersonaModelSpec, tokenizer: Any, examples: Mapping[Split, Sequence[Example]]
) -> DistillationDataset:
    """Return the examples to learn from and the held-out ones."""
    return DistillationDataset(
        tokenized(spec, tokenizer, examples["train"]),
        tokenized(spec, tokenizer, examples["validation"]),
    )


def tokenized_tests(dense: Any, tokenizer: Any, texts: Texts) -> dict[str, TokenizedSet]:
    """Return the sets to measure on, by name, with the dense model's hidden states."""
    return {
        name: with_dense_hidden_states(dense, tokenized(texts.spec, tokenizer, examples))
        for name, examples in texts.tests().items()
    }


def load(dense: Any, tokenizer: Any, texts: Texts) -> PersonaData:
    """Return the persona's data, the dense model's side computed once for all methods."""
    spec = texts.spec
    recovery = RecoveryData(
        tokenized_pair(spec, tokenizer, texts.persona).with_dense_hidden_states(dense),
        tokenized_pair(spec, tokenizer, texts.generic),
        spec.recovery.generic_percent,
    )
    return PersonaData(spec, recovery, tokenized_tests(dense, tokenizer, texts))


def role_play_answers(
    dense: Any, tokenizer: Any, role: str, questions: list[str], tokens: int, file: Path
) -> list[Example]:
    """Return the dense model's own answers in a role, made once."""
    if not file.exists():
        prompts = [render(tokenizer, messages(role, question)) for question in questions]
        answers = generate(dense, tokenizer, prompts, max_new_tokens=tokens)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        write_jsonl(part, list(_examples(role, questions, answers)))
        part.rename(file)
    return read_jsonl(file, Example)


def _examples(role: str, questions: list[str], answers: Sequence[Any]) -> Iterator[Example]:
    for question, answer in zip(questions, answers, strict=True):
        if answer.text.strip():
            example = Example.of(role, question, answer.text)
            yield example.model_copy(update={"ends": answer.finished})


def write_json(file: Path, document: Any) -> None:
    """Write a JSON file as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.rename(file)
